//! Pages of lists. A page token holds the position of the last item, so that items created later do not make the next
//! page repeat one.

use crate::model::executions::Place;
use crate::refusal::Refusal;

/// The number of items on a page if the request names none.
const PAGE: usize = 100;
/// The most items on a page, so that it stays a few MiB.
const LARGEST_PAGE: usize = 1000;

/// The size of a page, and the place after which it begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageRequest {
    size: usize,
    pub(crate) after: Option<Place>,
}

impl PageRequest {
    /// A size of 0 and an empty token count as absent.
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

    /// All items of the page are older than this position.
    pub(crate) fn older_than(&self) -> Option<i64> {
        self.after.map(|(position, _)| position)
    }

    /// Takes the items of the page from those that follow its token. Returns them with the token of the next page, if
    /// there is one.
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
