//! The technician's screen: pages over HTTP, served by the box, for a monitor beside the console or any browser of the department.
//!
//! Owns the server and its thread. It reads the database and the spool, and changes nothing but acknowledgements, users, sessions and what is
//! due in the outbox. No request ever leaves the box, and no page needs anything that is not in this binary. The rest of the appliance never
//! waits for it.
//!
//! ```text
//! appliance ── Notice ──▶ board ── a number that grows ──▶ /events ──▶ browser ── fetches what changed ──▶ pages ──▶ database
//! ```
mod axial;
pub mod board;
mod box_page;
mod door;
mod events;
mod list;
mod metrics;
mod page;
mod recent;
mod strings;
mod study_page;
mod users_page;
mod view;

pub use recent::Recent;

use crate::access::{Access, Setup};
use crate::audit;
use crate::config::{Config, Screen};
use crate::database::Database;
use crate::intake::now_ms;
use crate::intake::spool::Spool;
use crate::layout::Layout;
use crate::status;
use crate::tls;
use anyhow::Context;
use axum::Router;
use axum::http::header;
use axum::middleware;
use axum::response::{IntoResponse, Redirect};
use axum::routing::{get, post};
use axum_server::tls_rustls::RustlsConfig;
use board::Board;
use engine::Analyzer;
use log::{info, warn};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use strings::Strings;

/// Threads that may read database and spool for browsers at a time; the evaluation needs the cores.
const BLOCKING_THREADS_MAX: usize = 4;
/// Bytes of a form.
const FORM_BYTES_MAX: usize = 16 << 10;
/// How long requests may go on when the appliance stops.
const STOP_PATIENCE: Duration = Duration::from_millis(500);
/// How long a client may take to send a request, or its form.
const REQUEST_PATIENCE: Duration = Duration::from_secs(10);
/// How often alerts are looked at.
const ESCALATION_PERIOD: Duration = Duration::from_secs(1);

/// What every page needs.
pub struct App {
    /// For reading.
    database: Arc<Database>,
    /// For acknowledgements and escalation.
    writer: Arc<Database>,
    spool: Arc<Spool>,
    board: Arc<Board>,
    analyzer: Arc<Analyzer>,
    access: Access,
    trail: Arc<audit::Trail>,
    recent: Recent,
    strings: Strings,
    screen: Screen,
    config: Config,
    axial: axial::Cache,
    started_ms: i64,
    /// Where commands beside the daemon tell what they do.
    status_dir: PathBuf,
    streams: events::Streams,
    metrics: metrics::Cache,
}

impl App {
    /// The words of a key.
    fn t(&self, key: &str) -> &str {
        self.strings.get(key)
    }
}

/// What the screen is given of the appliance.
pub struct Parts {
    /// What it shows, on a connection of its own.
    pub reader: Arc<Database>,
    /// The appliance's connection, for what the screen writes.
    pub database: Arc<Database>,
    /// Where the slices are.
    pub spool: Arc<Spool>,
    /// What is going on.
    pub board: Arc<Board>,
    /// The engines and model cards.
    pub analyzer: Arc<Analyzer>,
    /// Who looked at what.
    pub trail: Arc<audit::Trail>,
    /// The last warnings.
    pub recent: Recent,
}

/// The running screen.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    handle: axum_server::Handle<SocketAddr>,
    thread: JoinHandle<()>,
}

impl Server {
    /// Starts the screen that the configuration describes.
    ///
    /// # Errors
    /// The address can't be listened on, or the site's words can't be read.
    pub fn start(
        config: &Config,
        screen: &Screen,
        identity: Option<&tls::Identity>,
        parts: Parts,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(screen.listen)
            .with_context(|| format!("cannot listen on screen.listen {}", screen.listen))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let Parts { reader, database, spool, board, analyzer, trail, recent } = parts;
        let code = config.storage.setup_code();
        let access = Access::new(Arc::clone(&database), code, Arc::clone(&trail))?;
        let path = access.setup_code_path().display();
        match access.setup_code()? {
            Some((Setup::First, _)) => info!("the screen has no user yet: the setup code is in {path}"),
            Some((Setup::Another, _)) => {
                warn!("the site brought a new setup code: whoever knows it makes a further engineer, once");
            }
            None => {}
        }
        let app = Arc::new(App {
            database: reader,
            writer: database,
            spool,
            board,
            analyzer,
            access,
            trail,
            recent,
            strings: Strings::load(screen.strings.as_deref())?,
            screen: screen.clone(),
            config: config.clone(),
            axial: axial::Cache::default(),
            started_ms: now_ms(),
            status_dir: status_dir(),
            streams: events::Streams::default(),
            metrics: metrics::Cache::default(),
        });
        let tls =
            screen.tls.then(|| identity.map(|i| RustlsConfig::from_config(Arc::clone(&i.web)))).flatten();
        let handle = axum_server::Handle::new();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_name("screen")
            .enable_all()
            .build()?;
        let stop = handle.clone();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let thread = std::thread::Builder::new().name("screen".into()).spawn(move || {
            if let Err(error) = runtime.block_on(serve(listener, tls, app, stop)) {
                // The flags go out all the same; whoever looks at the screen sees that it is not current.
                warn!("the screen has stopped: {error:#}");
            }
            runtime.shutdown_timeout(STOP_PATIENCE);
        })?;
        info!("the screen is at {scheme}://{address}/");
        Ok(Self { address, handle, thread })
    }

    /// Stops it; browsers say that they are not current.
    pub fn stop(self) {
        self.handle.graceful_shutdown(Some(STOP_PATIENCE));
        let patience = Instant::now() + 4 * STOP_PATIENCE;
        while !self.thread.is_finished() && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Of this box; `TRIAGED_STATUS_DIR` names another one, for tests.
fn status_dir() -> PathBuf {
    let given = std::env::var_os("TRIAGED_STATUS_DIR").map(PathBuf::from);
    given.unwrap_or_else(|| Layout::at(Path::new("/")).status_dir())
}

async fn serve(
    listener: TcpListener,
    tls: Option<RustlsConfig>,
    app: Arc<App>,
    handle: axum_server::Handle<SocketAddr>,
) -> anyhow::Result<()> {
    let watch = tokio::spawn(escalate(Arc::clone(&app)));
    let service = router(app).into_make_service_with_connect_info::<SocketAddr>();
    match tls {
        Some(tls) => {
            let mut server = axum_server::from_tcp_rustls(listener, tls)?
                .http1_only()
                .first_request_timeout(REQUEST_PATIENCE)
                .handle(handle);
            patience(server.http_builder());
            server.serve(service).await?;
        }
        None => {
            let mut server = axum_server::from_tcp(listener)?
                .http1_only()
                .first_request_timeout(REQUEST_PATIENCE)
                .handle(handle);
            patience(server.http_builder());
            server.serve(service).await?;
        }
    }
    watch.abort();
    Ok(())
}

/// A client that never finishes its request is let go.
fn patience<E>(builder: &mut hyper_util::server::conn::auto::Builder<E>) {
    builder
        .http1()
        .timer(hyper_util::rt::TokioTimer::new())
        .header_read_timeout(REQUEST_PATIENCE)
        .max_buf_size(64 << 10);
}

/// Looks at the alerts, and at what the commands beside the daemon tell, once a second.
async fn escalate(app: Arc<App>) {
    let after_ms = (app.screen.escalate_after_s * 1e3) as i64;
    let told = Arc::new(AtomicI64::new(0));
    loop {
        tokio::time::sleep(ESCALATION_PERIOD).await;
        let (app, told) = (Arc::clone(&app), Arc::clone(&told));
        let look = move || {
            let newest = status::newest_ms(&app.status_dir);
            if told.swap(newest, Ordering::Relaxed) != newest {
                app.board.changed();
            }
            let now = now_ms();
            match app.writer.escalate(now - after_ms, now) {
                Ok(alerts) => {
                    for (_, study) in &alerts {
                        warn!(
                            "study {study} is flagged, and nobody has acknowledged it for {} s",
                            after_ms / 1000
                        );
                    }
                    if !alerts.is_empty() {
                        app.board.changed();
                    }
                }
                Err(error) => warn!("alerts were not looked at: {error}"),
            }
        };
        if tokio::task::spawn_blocking(look).await.is_err() {
            warn!("alerts were not looked at: a fault of this program");
        }
    }
}

fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(list::page))
        .route("/part/list", get(list::part))
        .route("/part/alerts", get(list::alerts))
        .route("/study/{key}", get(study_page::page))
        .route("/part/study/{key}", get(study_page::part))
        .route("/study/{key}/picture.png", get(study_page::picture))
        .route("/study/{key}/slice/{index}", get(axial::slice))
        .route("/study/{key}/acknowledge", get(study_page::acknowledge_form).post(study_page::acknowledge))
        .route("/box", get(box_page::page))
        .route("/part/box", get(box_page::part))
        .route("/box/support-bundle", get(box_page::support_bundle))
        .route("/box/retry", get(|| async { Redirect::to("/box") }).post(box_page::retry))
        .route("/events", get(events::stream))
        .route("/beat", get(events::beat))
        .route("/login", get(door::form).post(door::login))
        .route("/logout", post(door::logout))
        .route("/setup", get(door::setup_form).post(door::setup))
        .route("/users", get(users_page::page).post(users_page::change))
        .route("/health", get(metrics::health))
        .route("/metrics", get(metrics::metrics))
        .route("/assets/style.css", get(|| asset("text/css", include_str!("screen/assets/style.css"))))
        .route("/assets/screen.js", get(|| asset("text/javascript", include_str!("screen/assets/screen.js"))))
        .route("/assets/icon.svg", get(|| asset("image/svg+xml", include_str!("screen/assets/icon.svg"))))
        .fallback(page::not_found)
        .layer(middleware::from_fn_with_state(Arc::clone(&app), page::guard))
        .layer(axum::extract::DefaultBodyLimit::max(FORM_BYTES_MAX))
        .with_state(app)
}

async fn asset(kind: &'static str, text: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, format!("{kind}; charset=utf-8"))], text)
}
