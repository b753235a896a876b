//! Servers of one application, each with a client of its own, and one Released for all of them.
//!
//! It runs on tokio's paused time, in which minutes pass at once. Requests are counted where they arrive, and no socket is
//! opened. Every random number comes from one seed, so a run can be repeated.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use tokio::time::{Instant, sleep};
use tower::{BoxError, service_fn};
use tower_released::{ReleasedClient, User};

/// How long Released takes for a token. Its real answer times are not documented.
const LATENCY: Duration = Duration::from_millis(100);

/// How long Released takes to answer that it fails.
const LATENCY_OF_FAULTS: Duration = Duration::from_millis(20);

/// For how long everything works at first.
const BEFORE: Duration = Duration::from_secs(30);

/// The first part of an outage, in which the circuits open.
const ONSET: Duration = Duration::from_secs(10);

/// The next part, in which they come to stay open for their longest time.
const SETTLING: Duration = Duration::from_secs(110);

/// The rest of the outage.
const SETTLED: Duration = Duration::from_secs(480);

/// For how long recovery is watched: longer than any circuit stays open.
const AFTER: Duration = Duration::from_secs(120);

/// What Released does instead of minting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Answers 503.
    Unavailable,
    /// Does not answer.
    Silent,
    /// Answers 429, and asks to wait for half a minute.
    Throttled,
}

/// What arrived at Released during a part of the simulation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Load {
    pub(crate) requests: u32,
    pub(crate) per_second: f64,
    pub(crate) busiest_second: u32,
    /// Over HTTP/1.1, each request in flight has a connection of its own.
    pub(crate) most_in_flight: u32,
}

/// What some servers do to Released.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) before: Load,
    /// The first ten seconds of the outage.
    pub(crate) onset: Load,
    /// The outage from its third minute on.
    pub(crate) settled: Load,
    pub(crate) after: Load,
    /// For each server that minted again, after how long, the earliest first.
    pub(crate) recovered: Vec<Duration>,
}

impl Figures {
    /// Returns after how long so many servers had minted again.
    pub(crate) fn recovered(&self, servers: u32) -> Option<Duration> {
        self.recovered.get(servers as usize - 1).copied()
    }
}

/// Simulates an outage for so many servers with so many mints a second each. Call it on a paused runtime with one thread.
pub(crate) async fn simulate(servers: u32, mints_per_second: f64, fault: Fault) -> Figures {
    fastrand::seed(1);
    let released = Released::default();
    let recovered = Arc::new(Mutex::new(Vec::new()));
    let recovery = Instant::now() + BEFORE + ONSET + SETTLING + SETTLED;
    for number in 0..servers {
        let mints = serve(
            released.client(),
            number,
            mints_per_second,
            recovery,
            Arc::clone(&recovered),
        );
        tokio::spawn(mints);
    }

    let before = released.load_of(BEFORE).await;
    released.lock().fault = Some(fault);
    let onset = released.load_of(ONSET).await;
    released.load_of(SETTLING).await;
    let settled = released.load_of(SETTLED).await;
    released.lock().fault = None;
    let after = released.load_of(AFTER).await;
    let mut recovered = std::mem::take(&mut *lock(&recovered));
    recovered.sort_unstable();
    Figures {
        before,
        onset,
        settled,
        after,
        recovered,
    }
}

/// Mints for users who come at random times, and notes when it first succeeds after the recovery.
async fn serve(
    client: ReleasedClient,
    server: u32,
    mints_per_second: f64,
    recovery: Instant,
    recovered: Arc<Mutex<Vec<Duration>>>,
) {
    let has_recovered = Arc::new(Mutex::new(false));
    for visit in 0_u64.. {
        sleep(Duration::from_secs_f64(
            -(1.0 - fastrand::f64()).ln() / mints_per_second,
        ))
        .await;
        let (client, has_recovered) = (client.clone(), Arc::clone(&has_recovered));
        let recovered = Arc::clone(&recovered);
        tokio::spawn(async move {
            let id = format!("user-{server}-{visit}");
            let user = User::new(&id, format!("{id}@example.com")).expect("valid");
            let is_minted = client.mint(&user).await.is_ok();
            let now = Instant::now();
            if is_minted && now >= recovery && !std::mem::replace(&mut lock(&has_recovered), true) {
                lock(&recovered).push(now - recovery);
            }
        });
    }
}

/// Stands in for Released.
#[derive(Clone, Default)]
struct Released(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    fault: Option<Fault>,
    in_flight: u32,
    most_in_flight: u32,
    /// When requests arrived, since the load was last taken.
    arrivals: Vec<Instant>,
}

impl Released {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    fn client(&self) -> ReleasedClient {
        let released = self.clone();
        let service = service_fn(move |_: Request<Full<Bytes>>| {
            let released = released.clone();
            async move { Ok::<_, BoxError>(released.answer().await) }
        });
        ReleasedClient::builder("account", "a-shared-secret")
            .endpoint("https://released.example/token")
            .http_service(service)
            .build()
            .expect("valid settings")
    }

    async fn answer(&self) -> Response<Full<Bytes>> {
        let _request = InFlight::new(self);
        let fault = self.lock().fault;
        let (status, retry_after) = match fault {
            None => {
                sleep(LATENCY.mul_f64(0.5 + fastrand::f64())).await;
                return Response::new(Full::from(r#""a.b.c""#));
            }
            Some(Fault::Silent) => std::future::pending().await,
            Some(Fault::Unavailable) => (StatusCode::SERVICE_UNAVAILABLE, None),
            Some(Fault::Throttled) => (StatusCode::TOO_MANY_REQUESTS, Some("30")),
        };
        sleep(LATENCY_OF_FAULTS).await;
        let mut response = Response::new(Full::default());
        *response.status_mut() = status;
        if let Some(seconds) = retry_after {
            let headers = response.headers_mut();
            headers.insert(RETRY_AFTER, http::HeaderValue::from_static(seconds));
        }
        response
    }

    /// Waits, and returns what arrived meanwhile.
    async fn load_of(&self, time: Duration) -> Load {
        let start = Instant::now();
        sleep(time).await;
        let mut state = self.lock();
        let mut requests = 0;
        let mut seconds = BTreeMap::new();
        for arrival in std::mem::take(&mut state.arrivals) {
            requests += 1;
            *seconds.entry((arrival - start).as_secs()).or_default() += 1;
        }
        let in_flight = state.in_flight;
        Load {
            requests,
            per_second: f64::from(requests) / time.as_secs_f64(),
            busiest_second: seconds.into_values().max().unwrap_or_default(),
            most_in_flight: std::mem::replace(&mut state.most_in_flight, in_flight),
        }
    }
}

/// A request that Released has not answered, and whose sender still waits.
struct InFlight<'a>(&'a Released);

impl<'a> InFlight<'a> {
    fn new(released: &'a Released) -> Self {
        let mut state = released.lock();
        state.arrivals.push(Instant::now());
        state.in_flight += 1;
        state.most_in_flight = state.most_in_flight.max(state.in_flight);
        Self(released)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.lock().in_flight -= 1;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it is held")
}
