//! A mint that was started is always driven to its end, whatever the page does with its own `get()`. Each page is over a
//! real socket, and stays open until the test ends.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::response::Response;
use axum::routing::get;
use futures_util::future::join_all;
use futures_util::{FutureExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tower_released::testing::{FakeReleased, Reply, StubMinter};
use tower_released::{
    BoxError, MintErrorKind, MintTiming, Minter, PendingToken, ReleasedClient, ReleasedTokenLayer,
    User, UserResolver, from_extractor, resolver_fn,
};
use tower_sessions::session::{Id, Record};
use tower_sessions::{MemoryStore, Session, SessionManagerLayer, SessionStore, session_store};

use crate::support::{ada, by_header, once, open_for};

/// Far more than what is waited for takes; what hangs takes for ever.
const PATIENCE: Duration = Duration::from_secs(20);

/// The client's, so that a mint ends soon after it was left alone.
const DEADLINE: Duration = Duration::from_millis(300);

/// A server that ends with the test.
struct Site {
    address: SocketAddr,
    server: JoinHandle<()>,
}

impl Site {
    async fn serve(app: Router) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        Self {
            address,
            server: tokio::spawn(async { axum::serve(listener, app).await.unwrap() }),
        }
    }

    /// Visits the page and leaves it open.
    async fn visit(&self, headers: &str) -> TcpStream {
        let mut page = TcpStream::connect(self.address).await.unwrap();
        page.write_all(format!("GET / HTTP/1.1\r\nhost: a\r\n{headers}\r\n").as_bytes())
            .await
            .unwrap();
        page
    }

    /// Visits the page until its first byte.
    async fn first_byte(&self, headers: &str) -> TcpStream {
        let mut page = self.visit(headers).await;
        let first = timeout(PATIENCE, page.read_u8())
            .await
            .expect("the page hangs")
            .unwrap();
        assert_eq!(first, b'H');
        page
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// How a page leaves its mint alone.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// `timeout(10 ms, pending.get())` in a handler that goes on without the token.
    TimesOut,
    /// `select!` over a `get()` that is kept.
    SelectsAway,
    /// A streamed body that asks once.
    BodyAsksOnce,
    /// A streamed body that only holds the promise, as one whose reader is slow.
    BodyHolds,
}

const WAYS: [(Way, MintTiming); 6] = [
    (Way::TimesOut, MintTiming::OnExtraction),
    (Way::TimesOut, MintTiming::AlongsideHandler),
    (Way::SelectsAway, MintTiming::OnExtraction),
    (Way::SelectsAway, MintTiming::AlongsideHandler),
    (Way::BodyAsksOnce, MintTiming::OnExtraction),
    (Way::BodyHolds, MintTiming::AlongsideHandler),
];

/// A body that stays open, and does `first`.
fn endless(first: impl Future<Output = ()> + Send + 'static) -> Response {
    let body = stream::once(async {
        first.await;
        Ok::<_, std::io::Error>(Bytes::new())
    });
    Response::new(Body::from_stream(body))
}

async fn page(way: Way, pending: PendingToken) -> Response {
    match way {
        Way::TimesOut => {
            let _ = timeout(Duration::from_millis(10), pending.get()).await;
            std::future::pending().await
        }
        Way::SelectsAway => {
            let mut asked = pin!(pending.get());
            tokio::select! {
                _ = &mut asked => {}
                () = sleep(Duration::from_millis(10)) => {}
            }
            std::future::pending().await
        }
        Way::BodyAsksOnce => endless(async move {
            let mut asked = pin!(pending.get());
            let _ = (&mut asked).now_or_never();
            std::future::pending::<()>().await;
        }),
        Way::BodyHolds => endless(async move {
            let _pending = pending;
            std::future::pending::<()>().await;
        }),
    }
}

async fn site(
    minter: impl Minter,
    resolver: impl UserResolver,
    way: Way,
    timing: MintTiming,
) -> Site {
    let layer = ReleasedTokenLayer::new(minter, resolver).timing(timing);
    Site::serve(
        Router::new()
            .route("/", get(move |pending| page(way, pending)))
            .layer(layer),
    )
    .await
}

async fn no_mint_in_flight(released: &FakeReleased) {
    timeout(
        PATIENCE,
        released.wait_until(|counts| counts.in_flight == 0),
    )
    .await
    .expect("a mint was left alone");
}

#[tokio::test]
async fn a_page_that_leaves_its_mint_alone_keeps_no_place_from_others() {
    for (way, timing) in WAYS {
        let released = FakeReleased::start().await.unwrap();
        released.set_latency(Duration::from_secs(60));
        let client = released
            .client_builder()
            .deadline(DEADLINE)
            .max_in_flight(1)
            .build()
            .unwrap();
        let site = site(client.clone(), by_header(), way, timing).await;
        let _open = site.visit("x-user: ada\r\n").await;
        timeout(
            PATIENCE,
            released.wait_until(|counts| counts.in_flight == 1),
        )
        .await
        .expect("the mint starts");
        released.recover();

        no_mint_in_flight(&released).await;
        client
            .mint(&ada())
            .await
            .unwrap_or_else(|error| panic!("{way:?} {timing:?}: {error}"));
    }
}

/// Mints until the circuit lets a mint through.
async fn first_that_is_let_through(client: &ReleasedClient) -> Option<MintErrorKind> {
    loop {
        match client.mint(&ada()).await.err().map(|error| error.kind()) {
            Some(MintErrorKind::CircuitOpen) => sleep(Duration::from_millis(5)).await,
            other => return other,
        }
    }
}

#[tokio::test]
async fn a_page_that_leaves_the_probe_alone_does_not_keep_the_circuit_open() {
    for (way, timing) in WAYS {
        let released = FakeReleased::start().await.unwrap();
        let moment = Duration::from_millis(50);
        let builder = released
            .client_builder()
            .deadline(DEADLINE)
            .retry(once())
            .circuit(open_for(moment));
        let client = builder.build().unwrap();
        released.reply_always(Reply::status(500));
        for _ in 0..5 {
            client.mint(&ada()).await.unwrap_err();
        }
        sleep(moment * 2).await;
        released.recover();
        released.set_latency(Duration::from_secs(60));
        let site = site(client.clone(), by_header(), way, timing).await;
        let _open = site.visit("x-user: ada\r\n").await;
        timeout(
            PATIENCE,
            released.wait_until(|counts| counts.in_flight == 1),
        )
        .await
        .expect("the probe starts");
        released.recover();

        no_mint_in_flight(&released).await;
        let let_through = timeout(PATIENCE, first_that_is_let_through(&client)).await;
        assert_eq!(
            let_through.expect("the circuit stays open"),
            None,
            "{way:?} {timing:?}"
        );
    }
}

#[tokio::test]
async fn a_hundred_and_twenty_eight_open_streams_do_not_end_all_minting() {
    let released = FakeReleased::start().await.unwrap();
    released.set_latency(Duration::from_secs(60));
    let moment = Duration::from_millis(50);
    let builder = released
        .client_builder()
        .deadline(Duration::from_secs(2))
        .circuit(open_for(moment));
    let client = builder.build().unwrap();
    let site = site(
        client.clone(),
        by_header(),
        Way::BodyAsksOnce,
        MintTiming::OnExtraction,
    )
    .await;
    let open = join_all((0..128).map(|_| site.visit("x-user: ada\r\n"))).await;
    timeout(
        PATIENCE,
        released.wait_until(|counts| counts.in_flight == 128),
    )
    .await
    .expect("all mints start");
    released.recover();

    no_mint_in_flight(&released).await;
    // They may have opened the circuit, for they took too long.
    let let_through = timeout(PATIENCE, first_that_is_let_through(&client)).await;
    assert_eq!(let_through.expect("no place is free"), None);
    assert_eq!(open.len(), 128);
}

#[tokio::test]
async fn the_task_of_a_mint_ends_with_the_last_who_holds_its_promise() {
    let released = FakeReleased::start().await.unwrap();
    released.set_latency(Duration::from_secs(60));
    let client = released
        .client_builder()
        .deadline(Duration::from_secs(60))
        .build()
        .unwrap();
    for (way, timing) in [
        (Way::BodyAsksOnce, MintTiming::OnExtraction),
        (Way::BodyHolds, MintTiming::AlongsideHandler),
    ] {
        let site = site(client.clone(), by_header(), way, timing).await;
        let open = site.first_byte("x-user: ada\r\n").await;
        timeout(
            PATIENCE,
            released.wait_until(|counts| counts.in_flight == 1),
        )
        .await
        .expect("the mint starts");
        drop(open);
        no_mint_in_flight(&released).await;
    }
    assert_eq!(released.counts().cancelled, 2);
}

// --- a session whose store is slower than the handler ---

/// A store that takes its time to load.
#[derive(Clone, Debug)]
struct SlowStore(Arc<MemoryStore>);

#[tonic::async_trait]
impl SessionStore for SlowStore {
    async fn save(&self, record: &Record) -> session_store::Result<()> {
        self.0.save(record).await
    }

    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        sleep(Duration::from_secs(1)).await;
        self.0.load(id).await
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        self.0.delete(id).await
    }
}

/// The layer, and the cookie of a session of Ada's.
async fn sessions() -> (SessionManagerLayer<SlowStore>, String) {
    let store = Arc::new(MemoryStore::default());
    let session = Session::new(None, Arc::clone(&store), None);
    session.insert("user", "ada").await.unwrap();
    session.save().await.unwrap();
    let cookie = format!("cookie: id={}\r\n", session.id().unwrap());
    (SessionManagerLayer::new(SlowStore(store)), cookie)
}

/// Who the session says, as the docs of `from_extractor` show it.
fn by_session() -> impl UserResolver {
    from_extractor((), async |session: Session| {
        let user = session.get::<String>("user").await?;
        Ok::<_, BoxError>(user.map(|id| User::new(&id, format!("{id}@example.com"))))
    })
}

#[tokio::test]
async fn a_streamed_page_is_not_held_up_by_a_mint_that_waits_for_the_session() {
    for way in [Way::BodyHolds, Way::BodyAsksOnce] {
        let (sessions, cookie) = sessions().await;
        let layer = ReleasedTokenLayer::new(StubMinter::new(), by_session())
            .timing(MintTiming::AlongsideHandler);
        let app = Router::new()
            .route("/", get(move |pending| page(way, pending)))
            .layer(layer)
            .layer(sessions);
        Site::serve(app).await.first_byte(&cookie).await;
    }
}

#[tokio::test]
async fn a_handler_may_read_the_session_after_it_gave_up_waiting_for_the_token() {
    for timing in [MintTiming::OnExtraction, MintTiming::AlongsideHandler] {
        let (sessions, cookie) = sessions().await;
        let layer = ReleasedTokenLayer::new(StubMinter::new(), by_session()).timing(timing);
        let page = async |pending: PendingToken, session: Session| {
            assert!(
                timeout(Duration::from_millis(10), pending.get())
                    .await
                    .is_err(),
                "the store is slower"
            );
            session.get::<String>("user").await.unwrap().unwrap()
        };
        let app = Router::new()
            .route("/", get(page))
            .layer(layer)
            .layer(sessions);
        Site::serve(app).await.first_byte(&cookie).await;
    }
}

#[tokio::test]
async fn a_handler_may_keep_a_get_that_it_does_not_poll_while_it_reads_the_session() {
    for timing in [MintTiming::OnExtraction, MintTiming::AlongsideHandler] {
        let (sessions, cookie) = sessions().await;
        let layer = ReleasedTokenLayer::new(StubMinter::new(), by_session()).timing(timing);
        let page = async |pending: PendingToken, session: Session| {
            let mut asked = pin!(pending.get());
            assert!((&mut asked).now_or_never().is_none(), "the store is slower");
            let user = session.get::<String>("user").await.unwrap().unwrap();
            assert!(asked.await.unwrap().is_some());
            user
        };
        let app = Router::new()
            .route("/", get(page))
            .layer(layer)
            .layer(sessions);
        Site::serve(app).await.first_byte(&cookie).await;
    }
}

#[tokio::test]
async fn a_handler_may_use_the_only_connection_of_a_pool_after_it_gave_up_waiting_for_the_token() {
    for timing in [MintTiming::OnExtraction, MintTiming::AlongsideHandler] {
        let pool = Arc::new(Semaphore::new(1));
        let resolver = resolver_fn({
            let pool = Arc::clone(&pool);
            move |_| {
                let pool = Arc::clone(&pool);
                async move {
                    let _connection = pool.acquire().await.unwrap();
                    sleep(Duration::from_secs(1)).await;
                    ada()
                }
            }
        });
        let layer = ReleasedTokenLayer::new(StubMinter::new(), resolver).timing(timing);
        let page = async move |pending: PendingToken| {
            assert!(
                timeout(Duration::from_millis(10), pending.get())
                    .await
                    .is_err(),
                "the resolver is slower"
            );
            let _connection = pool.acquire().await.unwrap();
        };
        Site::serve(Router::new().route("/", get(page)).layer(layer))
            .await
            .first_byte("")
            .await;
    }
}

#[tokio::test]
async fn a_token_that_lay_unread_is_not_called_fresh() {
    for timing in [MintTiming::OnExtraction, MintTiming::AlongsideHandler] {
        let released = FakeReleased::start().await.unwrap();
        released.set_latency(Duration::from_millis(100));
        released.set_token_life(Duration::from_secs(1));
        let layer = ReleasedTokenLayer::new(released.client().unwrap(), by_header()).timing(timing);
        let page = async |pending: PendingToken| {
            let mut asked = pin!(pending.get());
            assert!((&mut asked).now_or_never().is_none(), "the API is slower");
            sleep(Duration::from_millis(2300)).await;
            let token = asked.await.unwrap().unwrap();
            assert!(token.is_expired(), "{:?} remain", token.remaining());
        };
        let site = Site::serve(Router::new().route("/", get(page)).layer(layer)).await;
        let mut open = site
            .first_byte("x-user: ada\r\nconnection: close\r\n")
            .await;
        let mut head = String::new();
        open.read_to_string(&mut head).await.unwrap();
        assert!(head.starts_with("TTP/1.1 200"), "{head}");
    }
}
