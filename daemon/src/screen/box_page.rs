//! The box, for engineers: engines, queue, disk, destinations, latency, the last errors, versions.
use super::App;
use super::page::{PageError, Visitor, csrf};
use super::view::seconds;
use crate::access::Access;
use crate::audit::{Action, Event, Outcome};
use crate::database::Selection;
use crate::intake::now_ms;
use crate::layout::{self, Layout};
use crate::status::Status;
use crate::{support, version};
use axum::Extension;
use axum::extract::{Form, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use engine::EngineState;
use maud::{Markup, html};
use serde::Deserialize;
use std::path::Path;
use std::sync::Arc;

/// The last results that count.
const LATENCY_DAYS: i64 = 7;
/// Upper ends of the histogram's bars, in milliseconds.
const BOUNDS_MS: [f64; 9] = [500.0, 1e3, 2e3, 4e3, 8e3, 15e3, 30e3, 60e3, f64::INFINITY];
/// Last slice to flag: promise 4 of the specification, on two processor cores.
pub const BUDGET_MS: f64 = 8e3;

/// `GET /box`.
pub async fn page(State(app): State<Arc<App>>, Extension(visitor): Extension<Visitor>) -> Response {
    app.make(visitor, |app, visitor| {
        app.viewer(visitor, "/box")?;
        Ok(app.box_page(visitor, None)?.into_response())
    })
    .await
}

/// Which destination is to be tried again.
#[derive(Deserialize)]
pub struct Retry {
    #[serde(default)]
    csrf: String,
    destination: String,
}

/// `POST /box/retry`: what is parked for a destination goes again, for engineers.
pub async fn retry(
    State(app): State<Arc<App>>,
    Extension(visitor): Extension<Visitor>,
    Form(form): Form<Retry>,
) -> Response {
    app.make(visitor, move |app, visitor| {
        app.engineer(visitor)?;
        if !visitor.session.as_ref().is_some_and(|session| Access::csrf_matches(session, &form.csrf)) {
            return Err(PageError::Forbidden);
        }
        let Some(destination) = app.config.destinations.iter().find(|d| d.name() == form.destination) else {
            return Err(PageError::NotFound);
        };
        let (name, now) = (destination.name().to_owned(), now_ms());
        let sent = app.writer.retry(&Selection::ParkedFor(name.clone()), now)?;
        let left = app.writer.parked_and_superseded(Some(&name))?;
        let text = format!("{sent} results for {name}");
        let action = Action::Resend { destination: name };
        let outcome = Outcome::Success;
        app.trail.record(&Event { at_ms: now, who: visitor.who(), action, outcome, text });
        app.board.changed();
        Ok(app.box_page(visitor, Some((sent, left)))?.into_response())
    })
    .await
}

/// `GET /part/box`: what changes of it.
pub async fn part(State(app): State<Arc<App>>, Extension(visitor): Extension<Visitor>) -> Response {
    app.make(visitor, |app, visitor| {
        app.viewer(visitor, "/box")?;
        Ok(app.box_part(visitor)?.into_response())
    })
    .await
}

/// `GET /box/support-bundle`: one file for whoever is asked for help, for engineers. It names no patient.
pub async fn support_bundle(State(app): State<Arc<App>>, Extension(visitor): Extension<Visitor>) -> Response {
    app.make(visitor, |app, visitor| {
        app.engineer(visitor)?;
        let warnings: String =
            app.recent.lines().iter().map(|line| format!("{} {}\n", line.at, line.text)).collect();
        let layout = Layout::at(Path::new("/"));
        let sources = support::Sources {
            config: Ok(&app.config),
            examine: None,
            site: &layout::site_toml(&layout.state_dir()),
            logs: &[],
            texts: vec![("warnings.txt".to_owned(), warnings)],
        };
        let (bytes, _) =
            support::bundle(&sources).map_err(|error| PageError::Inside(format!("{error:#}")))?;
        let headers = [
            (header::CONTENT_TYPE, "application/gzip"),
            (header::CONTENT_DISPOSITION, "attachment; filename=\"triaged-support.tar.gz\""),
            (header::CACHE_CONTROL, "no-store"),
        ];
        Ok((headers, bytes).into_response())
    })
    .await
}

impl App {
    /// `said`: how many results are sent again, and how many are not because the destination has a later revision.
    fn box_page(&self, visitor: &Visitor, said: Option<(usize, u32)>) -> Result<Markup, PageError> {
        let body = html! {
            h1 { (self.t("box_title")) }
            @if let Some((sent, left)) = said {
                p role="status" {
                    (self.t("retry_sent")) " " (sent)
                    @if left > 0 { "; " (self.t("retry_left")) " " (left) }
                }
            }
            @if visitor.is_engineer() {
                p { a href="/box/support-bundle" { (self.t("support_bundle")) } " " span.hint { (self.t("support_bundle_hint")) } }
            }
            div #live data-part="/part/box" { (self.box_part(visitor)?) }
        };
        Ok(self.frame(visitor, "box_title", body))
    }

    fn box_part(&self, visitor: &Visitor) -> Result<Markup, PageError> {
        Ok(html! {
            div.box {
                (self.told())
                section { h2 { (self.t("box_engines")) } (self.engines()) }
                section { h2 { (self.t("box_queue")) } (self.queue()?) }
                section { h2 { (self.t("box_disk")) } (self.disk()) }
                section.wide { h2 { (self.t("box_peers")) } (self.peers(visitor)?) }
                section.wide { h2 { (self.t("box_latency")) } (self.latency()?) }
                section.wide { h2 { (self.t("box_log")) } (self.log()) }
                section.wide { h2 { (self.t("box_versions")) } (self.versions()) }
            }
        })
    }

    /// What the commands beside the daemon tell: a stick that is in, plans that are built, how the box is.
    fn told(&self) -> Markup {
        let told = [
            ("told_stick", "stick.json"),
            ("told_other_stick", "other-stick.json"),
            ("told_site", "site.json"),
            ("told_provision", "provision.json"),
            ("told_doctor", "doctor.json"),
        ];
        let told = told.map(|(key, file)| (key, Status::read(&self.status_dir.join(file))));
        html! {
            @for (key, status) in &told {
                @if let Some(Status { state, since, lines }) = status {
                    @let class = match state.as_str() {
                        "refused" | "failed" | "not well" => "wide bad",
                        "well" | "done" | "ready" => "wide good",
                        _ => "wide",
                    };
                    section class=(class) {
                        h2 { (self.t(key)) }
                        p { strong { (state) } " " span.hint { (since) } }
                        @if !lines.is_empty() { ul { @for line in lines { li { (line) } } } }
                    }
                }
            }
        }
    }

    fn engines(&self) -> Markup {
        let all = self.analyzer.engines().status();
        let first = all.iter().position(|engine| engine.state == EngineState::Ready);
        html! {
            table { tbody { @for (index, engine) in all.iter().enumerate() {
                @let (class, word, why) = match &engine.state {
                    EngineState::Ready if Some(index) == first => ("good", "engine_ready", None),
                    EngineState::Ready => ("", "engine_standby", None),
                    EngineState::Out { why } => ("bad", "engine_out", Some(why)),
                    EngineState::Missing { why } => ("", "engine_missing", Some(why)),
                };
                tr class=(class) {
                    th scope="row" { (engine.name) }
                    td {
                        strong { (self.t(word)) }
                        @if engine.falls > 0 { ", " (engine.falls) " " (self.t("engine_falls")) }
                        @if !engine.detail.is_empty() { span.hint { (engine.detail) } }
                        @if let Some(why) = why { span.hint { (why) } }
                    }
                }
            } } }
        }
    }

    fn queue(&self) -> Result<Markup, PageError> {
        let [receiving, waiting, analysing] = self.board.counts();
        let (alerts, _) = self.database.alert_counts()?;
        Ok(html! {
            dl {
                @for (name, count) in [
                    (self.t("queue_receiving"), receiving),
                    (self.t("queue_waiting"), waiting),
                    (self.t("queue_analysing"), analysing),
                    (self.t("alerts_open"), alerts as usize),
                ] {
                    dt { (name) } dd { strong { (count) } }
                }
            }
        })
    }

    fn disk(&self) -> Markup {
        let least = self.config.storage.min_free_mib;
        match self.spool.free_mib() {
            Ok(free) => html! {
                p { strong { (free) } " " (self.t("disk_free")) ", " (least) " " (self.t("disk_least")) }
                @if free < least { p.error { (self.t("disk_short")) } }
            },
            Err(error) => html! { p.error { (error) } },
        }
    }

    fn peers(&self, visitor: &Visitor) -> Result<Markup, PageError> {
        let engineer = visitor.session.as_ref().filter(|_| visitor.is_engineer());
        let mut rows = Vec::new();
        for destination in &self.config.destinations {
            let counts = self.database.counts(destination.name())?;
            rows.push((destination, counts, self.database.last_of(destination.name())?));
        }
        Ok(html! {
            @if rows.is_empty() { p.empty { (self.t("sent_nothing")) } }
            @else {
                table {
                    thead { tr {
                        @for key in ["column_destination", "column_address", "column_waiting", "column_parked", "column_last", "column_error"] {
                            th scope="col" { (self.t(key)) }
                        }
                    } }
                    tbody { @for (destination, counts, (last_ms, error)) in &rows {
                        tr class=(if counts.parked > 0 || error.is_some() { "bad" } else { "" }) {
                            th scope="row" { (destination.name()) }
                            td { (destination.address()) }
                            td { (counts.waiting + counts.stored) }
                            td {
                                (counts.parked)
                                @if let (Some(session), 1..) = (engineer, counts.parked) {
                                    form.inline method="post" action="/box/retry" {
                                        (csrf(session))
                                        input type="hidden" name="destination" value=(destination.name());
                                        button type="submit" aria-label={ (self.t("retry")) " " (destination.name()) } { (self.t("retry")) }
                                    }
                                }
                            }
                            td { @match last_ms { Some(ms) => { (self.time(*ms)) } None => { (self.t("never")) } } }
                            td { @if let Some(error) = error { (error) } }
                        }
                    } }
                }
            }
        })
    }

    fn latency(&self) -> Result<Markup, PageError> {
        let mut ms = self.database.latencies_ms(now_ms() - LATENCY_DAYS * 86_400_000)?;
        if ms.is_empty() {
            return Ok(html! { p.empty { (self.t("latency_none")) } });
        }
        ms.sort_by(f64::total_cmp);
        let over = ms.iter().filter(|ms| **ms > BUDGET_MS).count();
        let counts = histogram(&ms);
        let most = counts.iter().copied().max().unwrap_or(1).max(1);
        Ok(html! {
            p {
                (ms.len()) " " (self.t("latency_studies")) ", " (self.t("latency_median")) " " (seconds(ms[ms.len() / 2])) ", "
                (self.t("latency_budget")) " " (seconds(BUDGET_MS)) ", "
                strong class=(if over > 0 { "bad" } else { "good" }) { (over) " " (self.t("latency_over")) }
            }
            table.histogram { tbody { @for (bound, count) in BOUNDS_MS.iter().zip(counts) {
                tr class=(if *bound > BUDGET_MS && count > 0 { "bad" } else { "" }) {
                    th scope="row" { @if bound.is_finite() { "≤ " (seconds(*bound)) } @else { "> " (seconds(BOUNDS_MS[BOUNDS_MS.len() - 2])) } }
                    td { svg.bar viewBox="0 0 100 12" preserveAspectRatio="none" aria-hidden="true" {
                        rect.share x="0" y="0" width=(100 * count / most) height="12" {}
                    } }
                    td { (count) }
                }
            } } }
        })
    }

    fn log(&self) -> Markup {
        let lines = self.recent.lines();
        html! {
            @if lines.is_empty() { p.empty { (self.t("log_empty")) } }
            @else {
                ol.log { @for line in &lines {
                    li class=(if line.error { "bad" } else { "" }) { time { (line.at) } " " (line.text) }
                } }
            }
        }
    }

    fn versions(&self) -> Markup {
        let zoo = self.analyzer.zoo();
        // A method without a network of its own has the lung net's card.
        let own = Some(zoo.card()).filter(|card| card.name != zoo.lungs.name);
        let cards = [Some(&zoo.lungs), own].into_iter().flatten();
        html! {
            dl {
                @if let Some(image) = version::Image::here() {
                    dt { (self.t("image")) } dd { (image.version) " " span.hint { (image.board) } }
                }
                dt { (self.t("product")) } dd {
                    (version::VERSION) " " span.hint { (self.t("commit")) " " (version::COMMIT) }
                }
                @for card in cards {
                    dt { (card.name) } dd { (card.version) " " span.hint { "SHA-256 " (card.sha256.model) } }
                }
                dt { (self.t("running_since")) } dd { (self.time(self.started_ms)) }
            }
        }
    }
}

/// How many values lie in each bar.
pub fn histogram(values_ms: &[f64]) -> [usize; BOUNDS_MS.len()] {
    let mut counts = [0; BOUNDS_MS.len()];
    for ms in values_ms {
        let bar = BOUNDS_MS.iter().position(|bound| ms <= bound).unwrap_or(BOUNDS_MS.len() - 1);
        counts[bar] += 1;
    }
    counts
}

/// The bars' upper ends, in seconds.
pub fn bounds_s() -> impl Iterator<Item = f64> {
    BOUNDS_MS.iter().map(|ms| ms / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_lies_in_one_bar() {
        assert_eq!(histogram(&[500.0, 500.1, 8e3, 1e9, f64::NAN]), [1, 1, 0, 0, 1, 0, 0, 0, 2]);
    }
}
