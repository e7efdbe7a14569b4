//! Pages of lists. A token names the last item's place in time, so that what is created meanwhile repeats nothing.

use crate::model::executions::Place;
use crate::refusal::Refusal;

/// Items of a page when the caller does not say; also the most there can be, so that a page stays a few MiB.
const PAGE: usize = 100;
const LARGEST_PAGE: usize = 1000;

/// Which page is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageRequest {
    size: usize,
    pub(crate) after: Option<Place>,
}

impl PageRequest {
    /// 0 and an empty token mean "not given".
    pub(crate) fn new(size: Option<i64>, token: Option<&str>) -> Result<Self, Refusal> {
        let size = usize::try_from(size.unwrap_or(0))
            .map_err(|_| Refusal::invalid("The page size must not be negative."))?;
        let after = match token.unwrap_or_default() {
            "" => None,
            token => Some(
                parsed(token)
                    .ok_or_else(|| Refusal::invalid("The provided page token is invalid."))?,
            ),
        };
        let size = if size == 0 {
            PAGE
        } else {
            size.min(LARGEST_PAGE)
        };
        Ok(Self { size, after })
    }

    /// The position that the items of the page are older than.
    pub(crate) fn older_than(&self) -> Option<i64> {
        self.after.map(|(position, _)| position)
    }

    /// The page's items, of those that come after its token, and the token of the next one.
    pub(crate) fn cut<T>(
        &self,
        items: impl Iterator<Item = (Place, T)>,
    ) -> (Vec<T>, Option<String>) {
        let mut items: Vec<(Place, T)> = items.take(self.size + 1).collect();
        let more = items.len() > self.size;
        items.truncate(self.size);
        let last = items.last().filter(|_| more);
        let token = last.map(|((position, index), _)| format!("p{position}.{index}"));
        (items.into_iter().map(|(_, item)| item).collect(), token)
    }
}

fn parsed(token: &str) -> Option<Place> {
    let (position, index) = token.strip_prefix('p')?.split_once('.')?;
    Some((position.parse().ok()?, index.parse().ok()?))
}
