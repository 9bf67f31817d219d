//! Server-sent events: a beat, by which a browser knows that it is in touch, and what it needs to know whether its page is old.
use super::App;
use super::page::Visitor;
use crate::intake::now_ms;
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

/// The longest silence: a browser that hears nothing for three of them says that it is not current.
const BEAT: Duration = Duration::from_secs(3);
/// The least time between two events: a study that is received changes with each slice.
const PAUSE: Duration = Duration::from_millis(400);
/// Browsers that may listen at a time.
const STREAMS_MAX: usize = 64;

/// How many browsers listen.
#[derive(Default, Clone)]
pub struct Streams(Arc<AtomicUsize>);

/// A place among those who listen, given back when it is dropped.
struct Place(Streams);

impl Streams {
    fn place(&self) -> Option<Place> {
        let taken =
            self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| (n < STREAMS_MAX).then_some(n + 1));
        taken.ok().map(|_| Place(self.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// `GET /events`.
pub async fn stream(State(app): State<Arc<App>>, Extension(visitor): Extension<Visitor>) -> Response {
    if !visitor.may_view {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let Some(place) = app.streams.place() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many browsers listen").into_response();
    };
    let (sender, receiver) = tokio::sync::mpsc::channel::<Event>(1);
    tokio::spawn(async move {
        let _place = place;
        let mut changes = app.board.changes();
        loop {
            let version = *changes.borrow_and_update();
            let asked = Arc::clone(&app);
            let Ok(event) = tokio::task::spawn_blocking(move || event(&asked, version)).await else { return };
            // A browser that is gone has closed the channel.
            if sender.send(event).await.is_err() {
                return;
            }
            tokio::time::sleep(PAUSE).await;
            // Either way the next event is due; an end of the board ends the process.
            let _ = tokio::time::timeout(BEAT, changes.changed()).await;
        }
    });
    Sse::new(ReceiverStream::new(receiver).map(Ok::<_, Infallible>)).into_response()
}

fn event(app: &App, version: u64) -> Event {
    // What can't be read is no reason to say that all is well: no counts, and the browser keeps what it has.
    let counts = app.database.alert_counts().ok();
    let data = json!({
        // Another start of the daemon begins at 0 again.
        "version": format!("{}-{version}", app.started_ms),
        "alerts": counts.map(|(alerts, _)| alerts),
        "escalated": counts.map(|(_, escalated)| escalated),
        "time": app.time(now_ms()),
    });
    Event::default().data(data.to_string())
}
