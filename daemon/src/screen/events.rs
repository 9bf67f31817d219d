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
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

/// The longest silence: a browser that hears nothing for three of them says that it is not current.
const BEAT: Duration = Duration::from_secs(3);
/// The least time between two events: a study that is received changes with each slice.
const PAUSE: Duration = Duration::from_millis(400);
/// Browsers that may listen at a time, and those from one address.
const STREAMS_MAX: usize = 64;
const STREAMS_OF_PEER_MAX: usize = 16;

/// How many browsers listen, by address.
#[derive(Default, Clone)]
pub struct Streams(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A place among those who listen, given back when it is dropped.
struct Place(Streams, IpAddr);

impl Streams {
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Each change is one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, peer: IpAddr) -> Option<Place> {
        let mut all = self.lock();
        if all.values().sum::<usize>() >= STREAMS_MAX {
            return None;
        }
        let of_peer = all.entry(peer).or_default();
        if *of_peer >= STREAMS_OF_PEER_MAX {
            return None;
        }
        *of_peer += 1;
        Some(Place(self.clone(), peer))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.0.lock();
        if let Some(of_peer) = all.get_mut(&self.1) {
            *of_peer -= 1;
            if *of_peer == 0 {
                all.remove(&self.1);
            }
        }
    }
}

/// `GET /events`.
pub async fn stream(State(app): State<Arc<App>>, Extension(visitor): Extension<Visitor>) -> Response {
    if !visitor.may_view {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let Some(place) = app.streams.place(visitor.peer) else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many browsers listen").into_response();
    };
    let (sender, receiver) = tokio::sync::mpsc::channel::<Event>(1);
    tokio::spawn(async move {
        let _place = place;
        let mut changes = app.board.changes();
        loop {
            let version = *changes.borrow_and_update();
            let (asked, who) = (Arc::clone(&app), visitor.clone());
            let next = move || still_views(&asked, &who).then(|| event(&asked, version));
            // Who has logged out, or been removed, hears nothing any more.
            let Ok(Some(event)) = tokio::task::spawn_blocking(next).await else { return };
            let event = Event::default().data(event);
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

/// `GET /beat`: the same once, for pages that nobody looks at: browsers open few connections to a host, and a stream holds one.
pub async fn beat(State(app): State<Arc<App>>, Extension(visitor): Extension<Visitor>) -> Response {
    app.make(visitor, |app, visitor| {
        if !visitor.may_view {
            return Ok(StatusCode::UNAUTHORIZED.into_response());
        }
        let version = *app.board.changes().borrow();
        Ok(event(app, version).into_response())
    })
    .await
}

/// Whether whoever listens may go on: a session may have ended since.
fn still_views(app: &App, visitor: &Visitor) -> bool {
    match &visitor.token {
        None => true,
        Some(token) => !matches!(app.access.peek(token, now_ms()), Ok(None)),
    }
}

fn event(app: &App, version: u64) -> String {
    // What can't be read is no reason to say that all is well: no counts, and the page says that it is not current.
    let counts = app.database.alert_counts().ok();
    json!({
        // Another start of the daemon begins at 0 again.
        "version": format!("{}-{version}", app.started_ms),
        "alerts": counts.map(|(alerts, _)| alerts),
        "escalated": counts.map(|(_, escalated)| escalated),
        "time": app.time(now_ms()),
    })
    .to_string()
}
