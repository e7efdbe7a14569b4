//! How much is too much: rates per caller and per scope, and requests at one time.

use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body, HttpBody};
use axum::extract::{Query, Request};
use axum::http::Uri;
use axum::http::request::Parts;
use axum::response::Response;
use governor::clock::Clock;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::{self, Invalid};
use crate::http::problem::{Kind, Problem};
use crate::http::server::Peer;
use crate::scope::Scope;

/// Requests after which the keys that are as good as new are forgotten. A key used once is that after a minute divided by
/// the rate, so this and the requests of a minute bound how many there are.
const SWEEP_EVERY: usize = 4096;

/// The limits of the whole process.
pub struct Limits {
    callers: Rate<Key>,
    scopes: Rate<Scope>,
    in_flight: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    behind_front_end: bool,
}

impl Limits {
    /// `behind_front_end`: the last `X-Forwarded-For` is Cloud Run's own word and not the caller's.
    pub fn new(settings: &config::Limits, behind_front_end: bool) -> Result<Self, Invalid> {
        let semaphore = |name, permits| {
            Ok(Arc::new(Semaphore::new(
                positive(name, permits)?.get() as usize
            )))
        };
        Ok(Self {
            callers: Rate::new(positive("caller_per_minute", settings.caller_per_minute)?),
            scopes: Rate::new(positive("scope_per_minute", settings.scope_per_minute)?),
            in_flight: semaphore("in_flight", settings.in_flight)?,
            streams: semaphore("streams", settings.streams)?,
            behind_front_end,
        })
    }

    /// Lets a request in, or refuses at once what is more than can be worked on: whoever waits in a queue has given up by the
    /// time it moves. Those that wait for an execution are counted apart: thousands may be open at little cost. Whoever asks
    /// after our health is answered however busy we are.
    pub fn admit(&self, request: &Request) -> Result<Option<OwnedSemaphorePermit>, Problem> {
        let uri = request.uri();
        let pool = match uri.path().starts_with("/scopes/") {
            true if is_long(uri) => &self.streams,
            true => &self.in_flight,
            false => return Ok(None),
        };
        let permit = Arc::clone(pool).try_acquire_owned();
        permit.map(Some).map_err(|_| Kind::Overloaded.into())
    }

    /// Takes one start from what the scope has left. Reads are not counted: they cost nothing.
    pub fn start(&self, scope: &Scope) -> Result<(), Problem> {
        self.scopes
            .take(scope.clone(), "This scope was started too often.")
    }

    /// Takes one request from what the caller has left; without an identity, from what the address has.
    pub fn request(&self, parts: &Parts, identity: &str) -> Result<(), Problem> {
        let key = match identity {
            "" => Key::Address(self.address(parts)),
            identity => Key::Identity(identity.to_owned()),
        };
        self.callers.take(key, "You sent too many requests.")
    }

    /// Where the request comes from. One network of IPv6 is one caller: its addresses are free.
    fn address(&self, parts: &Parts) -> Option<IpAddr> {
        let forwarded = || {
            let last = parts
                .headers
                .get_all("x-forwarded-for")
                .into_iter()
                .next_back()?;
            last.to_str().ok()?.rsplit(',').next()?.trim().parse().ok()
        };
        let peer = || parts.extensions.get().map(Peer::address);
        let address = match self.behind_front_end {
            true => forwarded().or_else(peer),
            false => peer(),
        };
        address.map(|address| match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (!0 << 64))),
            v4 => v4,
        })
    }
}

fn positive(name: &str, value: u32) -> Result<NonZeroU32, Invalid> {
    NonZeroU32::new(value)
        .ok_or_else(|| Invalid::new(format!("limits.{name}"), "must be at least 1"))
}

/// Who is counted.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Identity(String),
    Address(Option<IpAddr>),
}

/// So much per minute for each key, all of it at once if need be.
struct Rate<K: Clone + Eq + Hash> {
    limiter: DefaultKeyedRateLimiter<K>,
    taken: AtomicUsize,
}

impl<K: Clone + Eq + Hash> Rate<K> {
    fn new(per_minute: NonZeroU32) -> Self {
        Self {
            limiter: RateLimiter::keyed(Quota::per_minute(per_minute)),
            taken: AtomicUsize::new(1),
        }
    }

    fn take(&self, key: K, refusal: &'static str) -> Result<(), Problem> {
        if self
            .taken
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(SWEEP_EVERY)
        {
            self.limiter.retain_recent();
        }
        self.limiter.check_key(&key).map_err(|until| {
            let wait = until.wait_time_from(self.limiter.clock().now());
            Problem::new(Kind::RateLimited, refusal).retry_after(wait.as_secs() + 1)
        })
    }
}

/// How a request for a scope is counted: for as long as it is worked on, or waited for.
fn is_long(uri: &Uri) -> bool {
    let mut segments = uri.path().split('/').skip(3); // after "", "scopes" and the scope
    match [
        segments.next(),
        segments.next(),
        segments.next(),
        segments.next(),
    ] {
        [Some("executions"), Some(_), Some("events"), None] => true,
        [Some("executions"), Some(_), None, None] => names_wait(uri),
        _ => false,
    }
}

/// Whether the query has the field `wait`, read as the handler will read it.
fn names_wait(uri: &Uri) -> bool {
    let fields = Query::<Vec<(String, String)>>::try_from_uri(uri);
    fields.is_ok_and(|Query(fields)| fields.iter().any(|(name, _)| name == "wait"))
}

/// Keeps the permit as long as the body goes on, if that is still being made.
pub fn held(response: Response, permit: Option<OwnedSemaphorePermit>) -> Response {
    if permit.is_none() || response.body().size_hint().exact().is_some() {
        return response;
    }
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _held = &permit;
            frame
        }))
    })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use axum::http::HeaderMap;
    use bytes::Bytes;
    use hyper::body::Frame;

    use super::*;

    fn limits(behind_front_end: bool) -> Limits {
        Limits::new(
            &config::Config::defaults().unwrap().limits,
            behind_front_end,
        )
        .unwrap()
    }

    #[test]
    fn a_caller_is_an_address_that_the_caller_cannot_choose() {
        let address = |behind_front_end, peer: &str, forwarded: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in forwarded {
                headers.append("x-forwarded-for", value.parse().unwrap());
            }
            let mut parts = Request::new(Body::empty()).into_parts().0;
            parts.headers = headers;
            let peer: SocketAddr = peer.parse().unwrap();
            parts.extensions.insert(Peer::new(peer.ip()));
            limits(behind_front_end)
                .address(&parts)
                .unwrap()
                .to_string()
        };
        let (peer, forged) = ("192.0.2.1:9", "203.0.113.9");
        assert_eq!(address(false, peer, &[forged]), "192.0.2.1");
        assert_eq!(
            address(true, peer, &["203.0.113.9, 198.51.100.7"]),
            "198.51.100.7"
        );
        assert_eq!(
            address(true, peer, &[forged, "198.51.100.7"]),
            "198.51.100.7"
        );
        assert_eq!(address(true, peer, &["nonsense"]), "192.0.2.1");
        assert_eq!(
            address(false, "[2001:db8:1:2:3:4:5:6]:9", &[]),
            "2001:db8:1:2::"
        );
        assert_eq!(address(false, "[::ffff:192.0.2.1]:9", &[]), "192.0.2.1");
    }

    #[test]
    fn a_rate_refuses_what_is_too_much_of_one_key_alone_and_says_for_how_long() {
        let rate = Rate::new(NonZeroU32::new(3).unwrap());
        let take = |key| rate.take(key, "too much");
        assert!((0..3).all(|_| take("a").is_ok()));
        let problem = take("a").unwrap_err();
        let response = problem.render("id");
        assert_eq!(response.status(), 429);
        let seconds: u64 = response.headers()["retry-after"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!((19..=21).contains(&seconds), "{seconds}"); // one in 20 seconds
        assert!(take("b").is_ok());
    }

    #[test]
    fn keys_that_are_as_good_as_new_are_forgotten() {
        let rate = Rate::new(NonZeroU32::new(1_000_000).unwrap()); // as new after 60 microseconds
        for key in 0..10 * SWEEP_EVERY {
            rate.take(key, "").unwrap();
        }
        assert!(
            rate.limiter.len() < 3 * SWEEP_EVERY,
            "{}",
            rate.limiter.len()
        );
    }

    struct Endless;

    impl HttpBody for Endless {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Poll::Pending
        }
    }

    #[test]
    fn a_permit_is_held_as_long_as_the_body_goes_on() {
        let room = Arc::new(Semaphore::new(1));
        let permit = || Some(Arc::clone(&room).try_acquire_owned().unwrap());
        let stream = held(Response::new(Body::new(Endless)), permit());
        assert_eq!(room.available_permits(), 0);
        drop(stream);
        let _whole = held(Response::new(Body::from("whole")), permit());
        assert_eq!(room.available_permits(), 1);
    }

    #[test]
    fn a_query_that_waits_is_known_however_it_is_written() {
        let waits = |uri: &str| names_wait(&uri.parse().unwrap());
        assert!(waits("/x?wait=5") && waits("/x?a=b&w%61it=5"));
        assert!(!waits("/x") && !waits("/x?await=5") && !waits("/x?a=wait"));
    }
}
