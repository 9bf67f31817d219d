//! What every page has: the guard before it, the frame around it, and what is said when it can't be made.
//!
//! The guard knows the visitor, refuses forms that come from elsewhere, and adds the headers that keep other sites and the browser's caches out.
use super::App;
use crate::access::{AccessError, Role, Session};
use crate::audit::{Action, Event, Outcome, Who};
use crate::config::Viewers;
use crate::database::DatabaseError;
use crate::intake::now_ms;
use axum::Extension;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use log::error;
use maud::{DOCTYPE, Markup, html};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The cookie that holds a session's token. Over TLS browsers hold on to the prefix: no other site of the host can set it.
const COOKIE: &str = "triaged";
const COOKIE_TLS: &str = "__Host-triaged";

/// Who asks.
#[derive(Clone)]
pub struct Visitor {
    /// From where.
    pub peer: IpAddr,
    /// The session's token, if there is a session.
    pub token: Option<String>,
    /// Who is logged in.
    pub session: Option<Session>,
    /// Whether lists and studies may be shown.
    pub may_view: bool,
}

impl Visitor {
    /// For the audit trail.
    pub fn who(&self) -> Who {
        let user = self.session.as_ref().map(|session| session.user.name.clone());
        Who { user, peer: Some(self.peer) }
    }

    /// Whether an engineer is logged in.
    pub fn is_engineer(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.user.role == Role::Engineer)
    }
}

/// Why there is no page.
#[derive(Debug)]
pub enum PageError {
    /// It needs a login; and back to here afterwards.
    Login { back: String },
    /// Only engineers.
    Engineers,
    /// There is no such thing.
    NotFound,
    /// The form came from elsewhere, or has expired.
    Forbidden,
    /// The box's own trouble.
    Inside(String),
}

impl From<DatabaseError> for PageError {
    fn from(error: DatabaseError) -> Self {
        Self::Inside(error.to_string())
    }
}

impl From<AccessError> for PageError {
    fn from(error: AccessError) -> Self {
        Self::Inside(error.to_string())
    }
}

/// A page, or why there is none.
pub type Paged = Result<Response, PageError>;

impl App {
    /// Makes a page away from the threads that serve: reading disk and database waits.
    pub async fn make(
        self: &Arc<Self>,
        visitor: Visitor,
        make: impl FnOnce(&App, &Visitor) -> Paged + Send + 'static,
    ) -> Response {
        let app = Arc::clone(self);
        let made = tokio::task::spawn_blocking(move || {
            let paged = make(&app, &visitor);
            paged.unwrap_or_else(|error| app.trouble(&visitor, error))
        });
        made.await.unwrap_or_else(|panic| {
            error!("a page of the screen could not be made: {panic}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        })
    }

    fn trouble(&self, visitor: &Visitor, error: PageError) -> Response {
        let (status, key) = match error {
            PageError::Login { back } => {
                let back = form_urlencode(&back);
                return Redirect::to(&format!("/login?back={back}")).into_response();
            }
            PageError::Engineers => (StatusCode::FORBIDDEN, "engineers_only"),
            PageError::NotFound => (StatusCode::NOT_FOUND, "error_not_found"),
            PageError::Forbidden => (StatusCode::FORBIDDEN, "error_forbidden"),
            PageError::Inside(why) => {
                error!("a page of the screen could not be made: {why}");
                (StatusCode::INTERNAL_SERVER_ERROR, "error_inside")
            }
        };
        let body = html! {
            h1 { (self.t("error_title")) }
            p.error role="alert" { (self.t(key)) }
            p { a href="/" { (self.t("back_to_list")) } }
        };
        (status, self.frame(visitor, "error_title", body)).into_response()
    }

    /// The frame around a page.
    pub fn frame(&self, visitor: &Visitor, title: &str, body: Markup) -> Markup {
        html! {
            (DOCTYPE)
            html lang=(self.t("language")) {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="robots" content="noindex";
                    title { (self.t(title)) " · " (self.config.dicom.ae_title) " · " (self.t("product")) }
                    link rel="stylesheet" href="/assets/style.css";
                    link rel="icon" href="/assets/icon.svg";
                    script src="/assets/screen.js" defer {}
                    // Not under a form that somebody fills.
                    @if matches!(title, "list_title" | "study_title" | "box_title") {
                        noscript { meta http-equiv="refresh" content="10"; }
                    }
                }
                body data-sound[self.screen.sound] {
                    a.skip href="#main" { (self.t("skip")) }
                    header {
                        (self.navigation(visitor))
                        @if visitor.may_view {
                            div #alerts data-part="/part/alerts" { (self.alert_banner(visitor)) }
                            // Seen after some seconds, unless the script has found that it is in touch.
                            div #stale role="alert" {
                                strong { (self.t("stale")) " " span #stale-since {} }
                                p { (self.t("stale_hint")) }
                            }
                            noscript { p { (self.t("no_script")) } }
                        }
                    }
                    main #main tabindex="-1" { (body) }
                    footer {
                        strong { (self.t("not_diagnostic")) }
                        " · " (self.t("machine")) " · "
                        (self.config.dicom.ae_title) " · " (self.t("product")) " " (env!("CARGO_PKG_VERSION"))
                        @if visitor.may_view { " · " span #clock {} }
                    }
                }
            }
        }
    }

    fn navigation(&self, visitor: &Visitor) -> Markup {
        html! {
            nav {
                a href="/" { (self.t("nav_list")) }
                a href="/box" { (self.t("nav_box")) }
                @if visitor.is_engineer() { a href="/users" { (self.t("nav_users")) } }
                span.space {}
                @if visitor.may_view && self.screen.sound {
                    button #sound type="button" hidden
                        data-on=(self.t("sound_on")) data-off=(self.t("sound_off"))
                        data-blocked=(self.t("sound_blocked")) {}
                }
                @match &visitor.session {
                    Some(session) => {
                        form method="post" action="/logout" {
                            (csrf(session))
                            button type="submit" { (self.t("nav_logout")) " " bdi { (session.user.name) } }
                        }
                    }
                    None => { a href="/login" { (self.t("nav_login")) } }
                }
            }
        }
    }

    /// Fails unless lists and studies may be shown.
    pub fn viewer(&self, visitor: &Visitor, back: &str) -> Result<(), PageError> {
        if visitor.may_view { Ok(()) } else { Err(PageError::Login { back: back.to_owned() }) }
    }

    /// Takes down in the audit trail what somebody did.
    pub fn note(&self, who: Who, action: Action) {
        let event = Event { at_ms: now_ms(), who, action, outcome: Outcome::Success, text: String::new() };
        self.trail.record(&event);
    }
}

/// The hidden field that shows that a form is ours.
pub fn csrf(session: &Session) -> Markup {
    html! { input type="hidden" name="csrf" value=(session.csrf); }
}

/// `Set-Cookie` for a session's token; an empty one ends it.
pub fn cookie(app: &App, token: &str) -> (HeaderName, HeaderValue) {
    let (name, secure) = if app.screen.tls { (COOKIE_TLS, "; Secure") } else { (COOKIE, "") };
    let end = if token.is_empty() { "; Max-Age=0" } else { "" };
    let value = format!("{name}={token}; Path=/; HttpOnly; SameSite=Strict{secure}{end}");
    (header::SET_COOKIE, HeaderValue::from_str(&value).expect("a token is of hexadecimal digits"))
}

fn token(app: &App, headers: &HeaderMap) -> Option<String> {
    let name = if app.screen.tls { COOKIE_TLS } else { COOKIE };
    let pairs =
        headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(';'));
    let mut values = pairs.filter_map(|pair| pair.trim().split_once('=')).filter(|(key, _)| *key == name);
    values.next().map(|(_, value)| value.to_owned()).filter(|value| !value.is_empty())
}

/// Whether a request that changes something comes from a page of ours: browsers say where it comes from (Fetch Metadata), older ones the origin.
fn is_from_here(headers: &HeaderMap) -> bool {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text(HeaderName::from_static("sec-fetch-site")) {
        return matches!(site, "same-origin" | "none");
    }
    match (text(header::ORIGIN), text(header::HOST)) {
        (Some(origin), Some(host)) => {
            origin.split_once("://").is_some_and(|(_, authority)| authority == host)
        }
        // No browser.
        (None, _) => true,
        (Some(_), None) => false,
    }
}

/// Whether the browser asked for this box by an address of loopback. A page of another site whose name was made to point here (DNS rebinding) did not.
fn asks_for_loopback(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    let name = name.map_or(host, |(name, _)| name).trim_matches(['[', ']']);
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether another server passed the request on: then nobody sits at this box. Those that say nothing must be configured to
/// (`view_without_login = "nobody"`).
fn is_forwarded(headers: &HeaderMap) -> bool {
    ["forwarded", "x-forwarded-for", "x-real-ip", "via"].iter().any(|name| headers.contains_key(*name))
}

/// Knows the visitor, before any page is made.
pub async fn guard(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    let mut response = if changes && !is_from_here(request.headers()) {
        (StatusCode::FORBIDDEN, app.t("error_forbidden").to_owned()).into_response()
    } else {
        let known = Arc::clone(&app);
        let token = token(&app, request.headers());
        let loopback = peer.ip().to_canonical().is_loopback()
            && asks_for_loopback(request.headers())
            && !is_forwarded(request.headers());
        // What a page does by itself keeps no session alive that nobody uses.
        let path = request.uri().path();
        let by_itself =
            path.starts_with("/part/") || path.ends_with(".png") || matches!(path, "/events" | "/beat");
        let look = move || visitor(&known, peer.ip().to_canonical(), token, loopback, by_itself);
        let visitor = tokio::task::spawn_blocking(look).await;
        match visitor {
            Ok(Ok(visitor)) => {
                request.extensions_mut().insert(visitor);
                if changes {
                    // A form that never ends.
                    let answer = tokio::time::timeout(super::REQUEST_PATIENCE, next.run(request)).await;
                    answer.unwrap_or_else(|_| StatusCode::REQUEST_TIMEOUT.into_response())
                } else {
                    next.run(request).await
                }
            }
            Ok(Err(error)) => {
                error!("sessions can't be read: {error}");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    if app.screen.tls {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
    response
}

const HEADERS: [(&str, &str); 7] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; \
         form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    // Not "no-referrer": with it browsers do not say where a form comes from (`Origin: null`).
    ("referrer-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    // Patients stay out of the browser's disk.
    ("cache-control", "no-store"),
];

fn visitor(
    app: &App,
    peer: IpAddr,
    token: Option<String>,
    loopback: bool,
    by_itself: bool,
) -> Result<Visitor, AccessError> {
    let session = match &token {
        Some(token) if by_itself => app.access.peek(token, now_ms())?,
        Some(token) => app.access.session(token, now_ms())?,
        None => None,
    };
    let may_view = session.is_some()
        || match app.screen.view_without_login {
            Viewers::Nobody => false,
            Viewers::Local => loopback,
            Viewers::Everybody => true,
        };
    Ok(Visitor { peer, token: token.filter(|_| session.is_some()), session, may_view })
}

/// Any other address.
pub async fn not_found(State(app): State<Arc<App>>, Extension(visitor): Extension<Visitor>) -> Response {
    app.make(visitor, |_, _| Err(PageError::NotFound)).await
}

/// Escapes what goes into a query.
fn form_urlencode(text: &str) -> String {
    text.bytes()
        .map(|b| {
            if b.is_ascii_alphanumeric() || b"-_./".contains(&b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_str(v).unwrap())).collect()
    }

    #[test]
    fn forms_from_elsewhere_are_known() {
        for (pairs, ours) in [
            (&[("sec-fetch-site", "same-origin"), ("origin", "http://elsewhere")][..], true),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("origin", "https://box:8443"), ("host", "box:8443")], true),
            (&[("origin", "https://elsewhere"), ("host", "box:8443")], false),
            (&[("origin", "null"), ("host", "box")], false),
            (&[("host", "box")], true),
        ] {
            assert_eq!(is_from_here(&headers(pairs)), ours, "{pairs:?}");
        }
    }

    #[test]
    fn only_names_of_loopback_are_local() {
        for (host, local) in [
            ("localhost:8042", true),
            ("127.0.0.1", true),
            ("[::1]:80", true),
            ("rebound.example:8042", false),
            ("10.0.0.1", false),
            ("", false),
        ] {
            assert_eq!(asks_for_loopback(&headers(&[("host", host)])), local, "{host}");
        }
    }

    #[test]
    fn what_goes_into_a_query_is_escaped() {
        assert_eq!(form_urlencode("/study/3?a=b&c"), "/study/3%3Fa%3Db%26c");
    }
}
