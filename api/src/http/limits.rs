//! Limits: rates per caller and per scope, and a number of concurrent requests, of which one caller may have half.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use axum::extract::{Query, Request};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, HeaderName, Uri};
use axum::response::Response;
use bytes::Bytes;
use governor::clock::Clock;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;

use crate::caller_id::CallerId;
use crate::config::{self, Invalid};
use crate::http::problem::{Kind, Problem};
use crate::http::server::Peer;
use crate::scope::Scope;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// After this many requests, keys whose full rate is available again are removed. A key that was used once is removed after a
/// minute divided by the rate, so this number and the requests of a minute bound how many keys there are.
const SWEEP_EVERY: usize = 4096;
/// How many bytes of an answer are handed to the connection at a time. It takes the next ones when these are written, so that the
/// answer counts as in flight until all bytes but these are written.
const WRITTEN_AT_A_TIME: usize = 32 * 1024;

/// The limits of the whole process.
pub struct Limits {
    callers: Rate<CallerId>,
    scopes: Rate<Scope>,
    in_flight: Arc<Pool>,
    streams: Arc<Pool>,
    /// The number of trusted proxies. Each appends the address of its client to `X-Forwarded-For`.
    trusted_proxies: usize,
}

impl Limits {
    /// `behind_front_end` says that Cloud Run's proxy appends the last address in `X-Forwarded-For`.
    pub fn new(settings: &config::Limits, behind_front_end: bool) -> Result<Self, Invalid> {
        let pool = |name, size| Ok(Arc::new(Pool::new(positive(name, size)?)));
        Ok(Self {
            callers: Rate::new(positive("caller_per_minute", settings.caller_per_minute)?),
            scopes: Rate::new(positive("scope_per_minute", settings.scope_per_minute)?),
            in_flight: pool("in_flight", settings.in_flight)?,
            streams: pool("streams", settings.streams)?,
            trusted_proxies: settings.trusted_proxies as usize + usize::from(behind_front_end),
        })
    }

    /// Admits a request, or refuses it at once beyond the limit: clients of a long queue would time out before their turn. Requests
    /// that wait for an execution have a separate limit, since thousands of them cost little. Health checks are always admitted.
    ///
    /// Until [`Limits::request`] knows the caller, the request counts against its address.
    pub fn admit(&self, request: &mut Request) -> Result<Option<Permit>, Problem> {
        let uri = request.uri();
        if !uri.path().starts_with("/scopes/") {
            return Ok(None);
        }
        let pool = if is_long(uri) {
            &self.streams
        } else {
            &self.in_flight
        };
        let address = self.address(request.headers(), request.extensions());
        let permit = pool.take(CallerId::of(Key::Address(address)))?;
        request.extensions_mut().insert(permit.clone());
        Ok(Some(permit))
    }

    /// Counts one start against the scope's rate. Reads are not counted, since they cost nothing.
    pub fn start(&self, scope: &Scope) -> Result<(), Problem> {
        self.scopes
            .take(scope.clone(), "This scope was started too often.")
    }

    /// Counts one request against the caller's rate, and among the caller's requests in flight. Without an identity, the caller is
    /// the address.
    pub fn request(&self, parts: &Parts, identity: &str) -> Result<CallerId, Problem> {
        let caller = match identity {
            "" => CallerId::of(Key::Address(
                self.address(&parts.headers, &parts.extensions),
            )),
            identity => CallerId::of(Key::Identity(identity)),
        };
        self.callers.take(caller, "You sent too many requests.")?;
        if let Some(permit) = parts.extensions.get::<Permit>() {
            permit.count_as(caller)?;
        }
        Ok(caller)
    }

    /// The address of the request's caller. For IPv6 it is the /64 network, since a client can use any address in it.
    fn address(&self, headers: &HeaderMap, extensions: &Extensions) -> Option<IpAddr> {
        let address = forwarded(headers, self.trusted_proxies)
            .or_else(|| extensions.get().map(Peer::address))?;
        Some(match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (!0 << 64))),
            v4 => v4,
        })
    }
}

/// The address that the outermost of so many proxies appended: the entry at that position from the right of `X-Forwarded-For`. The
/// client can forge the entries further left. A request that passed fewer proxies has fewer entries.
fn forwarded(headers: &HeaderMap, proxies: usize) -> Option<IpAddr> {
    let fields = headers.get_all(X_FORWARDED_FOR).into_iter().rev();
    let addresses = fields.flat_map(|field| field.to_str().unwrap_or_default().rsplit(','));
    addresses.take(proxies).last()?.trim().parse().ok()
}

fn positive(name: &str, value: u32) -> Result<NonZeroU32, Invalid> {
    NonZeroU32::new(value)
        .ok_or_else(|| Invalid::new(format!("limits.{name}"), "must be at least 1"))
}

/// What a request is counted against.
#[derive(Hash)]
enum Key<'a> {
    Identity(&'a str),
    Address(Option<IpAddr>),
}

/// A number of concurrent requests, of which one caller may have half, so that one caller cannot block the others.
struct Pool {
    size: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    all: usize,
    by_caller: BTreeMap<CallerId, usize>,
}

impl Pool {
    fn new(size: NonZeroU32) -> Self {
        Self {
            size: size.get() as usize,
            held: Mutex::default(),
        }
    }

    /// How many requests one caller may have: half of them, but at least one.
    fn share(&self) -> usize {
        (self.size / 2).max(1)
    }

    fn take(self: &Arc<Self>, caller: CallerId) -> Result<Permit, Problem> {
        let mut held = self.held.lock();
        if held.all >= self.size {
            return Err(Kind::Overloaded.into());
        }
        self.add(&mut held, caller)?;
        held.all += 1;
        Ok(Permit(Arc::new(Place {
            pool: Arc::clone(self),
            caller: Mutex::new(caller),
        })))
    }

    fn add(&self, held: &mut Held, caller: CallerId) -> Result<(), Problem> {
        let (share, count) = (self.share(), held.by_caller.entry(caller).or_default());
        if *count >= share {
            let detail = format!(
                "You have {share} requests in flight, which is as many as one caller may have. Wait until some of them are answered."
            );
            return Err(Problem::new(Kind::Overloaded, detail));
        }
        *count += 1;
        Ok(())
    }
}

impl Held {
    fn remove(&mut self, caller: CallerId) {
        if let Some(count) = self.by_caller.get_mut(&caller) {
            *count -= 1;
            if *count == 0 {
                self.by_caller.remove(&caller);
            }
        }
    }
}

/// The permit of one request in flight. It is returned when its last copy is dropped.
#[derive(Clone)]
pub struct Permit(Arc<Place>);

struct Place {
    pool: Arc<Pool>,
    caller: Mutex<CallerId>,
}

impl Permit {
    /// Counts the request against this caller from now on, or refuses it if the caller has too many.
    fn count_as(&self, caller: CallerId) -> Result<(), Problem> {
        let mut before = self.0.caller.lock();
        if *before == caller {
            return Ok(());
        }
        let mut held = self.0.pool.held.lock();
        self.0.pool.add(&mut held, caller)?;
        held.remove(*before);
        *before = caller;
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.pool.held.lock();
        held.all -= 1;
        held.remove(*self.caller.get_mut());
    }
}

/// A rate per minute for each key. A burst may use a whole minute's at once.
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

/// Whether a request waits for an execution, so that it counts as a stream and not as in flight.
fn is_long(uri: &Uri) -> bool {
    let mut segments = uri.path().split('/').skip(3); // skips "", "scopes" and the scope
    match [
        segments.next(),
        segments.next(),
        segments.next(),
        segments.next(),
    ] {
        [Some("executions"), Some(_), Some("events"), None] => true,
        [Some("executions"), Some(_), None, None] | [Some("process"), _, None, None] => {
            names_wait(uri)
        }
        _ => false,
    }
}

/// Whether the query has the field `wait`, parsed as the handler parses it.
fn names_wait(uri: &Uri) -> bool {
    let fields = Query::<Vec<(String, String)>>::try_from_uri(uri);
    fields.is_ok_and(|Query(fields)| fields.iter().any(|(name, _)| name == "wait"))
}

/// Attaches the permit to the response, so that the request is in flight until the body is written.
pub fn hold_permit(response: Response, permit: Option<Permit>) -> Response {
    match permit {
        None => response,
        Some(permit) => response.map(|body| {
            Body::new(Permitted {
                body,
                rest: Bytes::new(),
                _permit: permit,
            })
        }),
    }
}

/// A body that holds a permit and is handed over in small pieces. Otherwise the connection would take a large body at once, and
/// drop the permit long before a slow reader has received the body.
struct Permitted {
    body: Body,
    rest: Bytes,
    _permit: Permit,
}

impl HttpBody for Permitted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                ended => return Poll::Ready(ended),
            }
        }
        let next = self.rest.len().min(WRITTEN_AT_A_TIME);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(next)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use http_body_util::BodyExt;

    use super::*;

    #[test]
    fn a_caller_is_an_address_that_the_caller_cannot_choose() {
        let at = |(front_end, proxies), peer: &str, forwarded: &[&str]| {
            let mut settings = config::Config::defaults().unwrap().limits;
            settings.trusted_proxies = proxies;
            let limits = Limits::new(&settings, front_end).unwrap();
            let mut headers = HeaderMap::new();
            for value in forwarded {
                headers.append("x-forwarded-for", value.parse().unwrap());
            }
            let peer: SocketAddr = peer.parse().unwrap();
            let mut extensions = Extensions::new();
            extensions.insert(Peer::new(peer.ip()));
            limits.address(&headers, &extensions).unwrap().to_string()
        };
        let address =
            |front_end, peer: &str, forwarded: &[&str]| at((front_end, 0), peer, forwarded);
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

        let balanced = "203.0.113.9, 198.51.100.7, 34.111.0.9";
        assert_eq!(at((true, 1), peer, &[balanced]), "198.51.100.7");
        assert_eq!(
            at((true, 1), peer, &[forged, "198.51.100.7", "34.111.0.9"]),
            "198.51.100.7"
        );
        assert_eq!(at((true, 2), peer, &[balanced]), "203.0.113.9");
        assert_eq!(at((true, 1), peer, &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(at((true, 1), peer, &["x, 34.111.0.9"]), "192.0.2.1");
        assert_eq!(at((false, 1), peer, &[balanced]), "34.111.0.9");
    }

    #[test]
    fn a_rate_limits_each_key_separately_and_returns_the_time_to_wait() {
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
    fn keys_whose_full_rate_is_available_again_are_removed() {
        let rate = Rate::new(NonZeroU32::new(1_000_000).unwrap()); // fully available again after 60 microseconds
        for key in 0..10 * SWEEP_EVERY {
            rate.take(key, "").unwrap();
        }
        assert!(
            rate.limiter.len() < 3 * SWEEP_EVERY,
            "{}",
            rate.limiter.len()
        );
    }

    fn pool(size: u32) -> Arc<Pool> {
        Arc::new(Pool::new(NonZeroU32::new(size).unwrap()))
    }

    /// How many permits the caller gets.
    fn taken(pool: &Arc<Pool>, caller: u8) -> Vec<Permit> {
        std::iter::from_fn(|| pool.take(CallerId::of(caller)).ok()).collect()
    }

    #[test]
    fn one_caller_may_hold_half_of_the_permits_and_two_all_of_them() {
        for (size, share) in [(1, 1), (2, 1), (3, 1), (4, 2), (256, 128), (10_000, 5_000)] {
            let pool = pool(size);
            let first = taken(&pool, 1);
            assert_eq!(first.len(), share, "{size}");
            let second = taken(&pool, 2);
            assert_eq!(second.len(), share.min(size as usize - share), "{size}");
            drop((first, second));
            assert!(pool.held.lock().by_caller.is_empty());
            assert_eq!(taken(&pool, 3).len(), share, "{size}");
        }
    }

    #[test]
    fn a_request_counts_against_its_caller_once_authenticated() {
        let pool = pool(4);
        let of_address = taken(&pool, 0);
        let user = CallerId::of(1);
        for permit in &of_address {
            permit.count_as(user).unwrap();
            permit.count_as(user).unwrap();
        }
        let next = taken(&pool, 0);
        assert_eq!(next.len(), 2, "the address has its share again");
        let refused = next[0].count_as(user).unwrap_err();
        assert_eq!(refused.kind, Kind::Overloaded);
        drop(of_address);
        next[0].count_as(user).unwrap();
        drop(next);
        let held = pool.held.lock();
        assert_eq!((held.all, held.by_caller.len()), (0, 0));
    }

    #[tokio::test]
    async fn a_permit_is_held_until_the_end_of_the_body_is_taken() {
        let pool = pool(1);
        let whole = vec![7; 3 * WRITTEN_AT_A_TIME + 1];
        for body in [
            Body::from(whole.clone()),
            Body::from_stream(futures_util::stream::iter([Ok::<_, axum::Error>(
                whole.clone(),
            )])),
        ] {
            let exact = body.size_hint().exact();
            let permit = pool.take(CallerId::of(1)).unwrap();
            let mut body = hold_permit(Response::new(body), Some(permit)).into_body();
            assert_eq!(body.size_hint().exact(), exact);
            let mut read = Vec::new();
            while let Some(frame) = body.frame().await {
                assert_eq!(pool.held.lock().all, 1);
                let data = frame.unwrap().into_data().unwrap();
                assert!(data.len() <= WRITTEN_AT_A_TIME);
                read.extend(data);
                let left = exact.map(|all| all - read.len() as u64);
                assert_eq!(body.size_hint().exact(), left);
            }
            assert!(read == whole);
            drop(body);
            assert_eq!(pool.held.lock().all, 0);
        }
    }

    #[test]
    fn wait_is_recognised_in_any_encoding_of_the_query() {
        let waits = |uri: &str| names_wait(&uri.parse().unwrap());
        assert!(waits("/x?wait=5") && waits("/x?a=b&w%61it=5"));
        assert!(!waits("/x") && !waits("/x?await=5") && !waits("/x?a=wait"));
    }

    #[test]
    fn requests_that_wait_for_an_execution_do_not_count_as_in_flight() {
        let long = |uri: &str| is_long(&uri.parse().unwrap());
        for uri in [
            "/scopes/a/executions/x/events",
            "/scopes/a/executions/x?wait=5",
            "/scopes/a/process?wait=5",
            "/scopes/a/process/import?on_running=join&wait=5",
        ] {
            assert!(long(uri), "{uri}");
        }
        for uri in [
            "/scopes/a/process",
            "/scopes/a/executions?wait=5",
            "/scopes/a/executions/x",
            "/scopes/a/executions/x/logs?wait=5",
            "/scopes/a/executions/x/cancel?wait=5",
        ] {
            assert!(!long(uri), "{uri}");
        }
    }
}
