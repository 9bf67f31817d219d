//! The list of studies in triage order, beside it the order of arrival (paper figure 1), and the alerts on top of every page.
use super::App;
use super::page::{PageError, Paged, Visitor};
use super::view::{Line, seconds};
use crate::audit::Action;
use crate::database::{Listed, Order, Period};
use axum::Extension;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use chrono::{Days, Local, NaiveDate};
use maud::{Markup, html};
use results::{score_text, share_text};
use serde::Deserialize;
use std::sync::Arc;

/// Studies on a page.
const PAGE: usize = 50;
/// Studies in the order of arrival beside it.
const ARRIVALS: usize = 25;
/// Alerts that the banner names; the others are counted.
const NAMED: usize = 5;

/// Which part of the list.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Asked {
    /// A day, `2026-11-23`; without it: today.
    day: Option<String>,
    /// A page, from 1.
    page: Option<usize>,
}

/// A day's list.
struct Chosen {
    day: Option<NaiveDate>,
    page: usize,
    period: Period,
}

impl Asked {
    /// A day that is none, or today, is today.
    fn chosen(&self) -> Chosen {
        let today = Local::now().date_naive();
        let day =
            self.day.as_deref().and_then(|day| day.parse::<NaiveDate>().ok()).filter(|day| *day != today);
        let period = match day {
            None => Period::Since(midnight(today)),
            Some(day) => {
                let next = day.checked_add_days(Days::new(1)).unwrap_or(day);
                Period::Between(midnight(day), midnight(next))
            }
        };
        Chosen { day, page: self.page.unwrap_or(1).clamp(1, 1_000_000), period }
    }
}

impl Chosen {
    fn link(&self, day: Option<NaiveDate>, page: usize) -> String {
        match day {
            None => format!("/?page={page}"),
            Some(day) => format!("/?day={day}&page={page}"),
        }
    }
}

/// When a day begins here, in milliseconds since 1970. Where the clock is put forward over midnight, an hour later.
fn midnight(day: NaiveDate) -> i64 {
    let time = (0..3).find_map(|hour| day.and_hms_opt(hour, 0, 0)?.and_local_timezone(Local).earliest());
    time.map_or(0, |time| time.timestamp_millis())
}

/// `GET /`.
pub async fn page(
    State(app): State<Arc<App>>,
    Extension(visitor): Extension<Visitor>,
    Query(asked): Query<Asked>,
) -> Response {
    app.make(visitor, move |app, visitor| {
        if app.access.needs_setup()? && !visitor.may_view {
            return Ok(axum::response::Redirect::to("/setup").into_response());
        }
        app.viewer(visitor, "/")?;
        app.note(visitor.who(), Action::ViewList);
        let list = app.list(&asked.chosen())?;
        Ok(app.frame(visitor, "list_title", list).into_response())
    })
    .await
}

/// `GET /part/list`: what changes of it.
pub async fn part(
    State(app): State<Arc<App>>,
    Extension(visitor): Extension<Visitor>,
    Query(asked): Query<Asked>,
) -> Response {
    app.make(visitor, move |app, visitor| {
        app.viewer(visitor, "/")?;
        app.note(visitor.who(), Action::ViewList);
        Ok(app.list_part(&asked.chosen())?.into_response())
    })
    .await
}

/// `GET /part/alerts`: the banner.
pub async fn alerts(State(app): State<Arc<App>>, Extension(visitor): Extension<Visitor>) -> Response {
    app.make(visitor, |app, visitor| -> Paged {
        app.viewer(visitor, "/")?;
        // It names patients, on every page.
        app.note(visitor.who(), Action::ViewList);
        Ok(app.alert_banner(visitor).into_response())
    })
    .await
}

impl App {
    fn list(&self, chosen: &Chosen) -> Result<Markup, PageError> {
        let today = Local::now().date_naive();
        let day = chosen.day.unwrap_or(today);
        let before = day.checked_sub_days(Days::new(1));
        let after = day.checked_add_days(Days::new(1)).filter(|after| *after <= today);
        let part = chosen.link(chosen.day, chosen.page).replacen("/?", "/part/list?", 1);
        Ok(html! {
            div.title {
                h1 { (self.t("list_title")) " " @match chosen.day {
                    None => { (self.t("today")) }
                    Some(day) => { (day) }
                } }
                nav.days aria-label=(self.t("nav_list")) {
                    @if let Some(before) = before {
                        a href=(chosen.link(Some(before), 1)) { "◀ " (self.t("day_before")) }
                    }
                    @if chosen.day.is_some() {
                        @if let Some(after) = after {
                            a href=(chosen.link(Some(after), 1)) { (self.t("day_after")) " ▶" }
                        }
                        a href="/" { (self.t("today")) }
                    }
                }
            }
            div #live data-part=(part) { (self.list_part(chosen)?) }
        })
    }

    fn list_part(&self, chosen: &Chosen) -> Result<Markup, PageError> {
        let count = self.database.listed_count(chosen.period)?;
        let pages = count.div_ceil(PAGE).max(1);
        let page = chosen.page.min(pages);
        let studies = self.database.listed(chosen.period, Order::Triage, (page - 1) * PAGE, PAGE)?;
        let arrivals = self.database.listed(chosen.period, Order::Arrival, 0, ARRIVALS)?;
        Ok(html! {
            @if studies.is_empty() {
                p.empty { (self.t(if chosen.day.is_some() { "empty_day" } else { "empty_list" })) }
            } @else {
                div.orders {
                    section.triage aria-labelledby="triage" {
                        h2 #triage { (self.t("triage_order")) }
                        (self.table(&studies))
                        @if pages > 1 {
                            nav.pages {
                                @if page > 1 { a #page-previous href=(chosen.link(chosen.day, page - 1)) { (self.t("page_previous")) } }
                                span { (self.t("page")) " " (page) " " (self.t("page_of")) " " (pages) " (" (count) " "
                                    (self.t("studies_in_all")) ")" }
                                @if page < pages { a #page-next href=(chosen.link(chosen.day, page + 1)) { (self.t("page_next")) } }
                            }
                        }
                    }
                    section.arrival aria-labelledby="arrival" {
                        h2 #arrival { (self.t("arrival_order")) }
                        ol { @for study in &arrivals { (self.arrival(study)) } }
                    }
                }
            }
        })
    }

    fn table(&self, studies: &[Listed]) -> Markup {
        html! {
            table {
                thead { tr {
                    th scope="col" { (self.t("column_state")) }
                    th scope="col" { (self.t("column_patient")) }
                    th scope="col" { (self.t("column_severity")) }
                    th scope="col" { (self.t("column_score")) }
                    th scope="col" { (self.t("column_arrival")) }
                } }
                tbody { @for study in studies { (self.row(study)) } }
            }
        }
    }

    fn row(&self, study: &Listed) -> Markup {
        let state = self.state(study);
        let line = Line::of(study).unwrap_or_default();
        let link = format!("/study/{}", study.key.0);
        html! {
            tr class=(state.class) data-study=(study.study_uid) {
                td.state {
                    span.word { span.sign aria-hidden="true" { (state.sign()) } " " (state.word) }
                    @if let Some(percent) = state.percent {
                        progress max="100" value=(percent) aria-label=(state.word) {}
                    }
                    span.hint { (state.hint) }
                    @if let Some(again) = &state.again { span.again { (again) } }
                    (self.acknowledged(study))
                }
                th.patient scope="row" { a id={ "study-" (study.key.0) } href=(link) { (self.patient(&study.subject)) } }
                td.severity { (self.severity(&line)) }
                td.score {
                    @if let Some(probability) = line.probability { (score_text(probability)) }
                    @if !line.priority.is_empty() { span.hint title=(self.t("column_priority")) { (self.priority(&line)) } }
                }
                td.arrived {
                    time { (self.time(study.arrived_ms)) }
                    @if let Some(ms) = line.timings_ms.get("last_slice_to_outcome") {
                        span.hint title=(self.t("column_flag_time")) { (self.t("result_in")) " " (seconds(*ms)) }
                    }
                }
            }
        }
    }

    /// The priority that the worklists were told.
    pub fn priority(&self, line: &Line) -> &str {
        match line.priority.as_str() {
            "high" => self.t("priority_high"),
            "medium" => self.t("priority_medium"),
            _ => self.t("priority_low"),
        }
    }

    /// Both lungs' affected share as bars, the patient's right lung first, and the category.
    pub fn severity(&self, line: &Line) -> Markup {
        let Some(shares) = line.severity else {
            return html! { @if line.lung_volume_ml.is_some() { span.hint { (self.t("not_measured")) } } };
        };
        let volumes = line.lung_volume_ml.unwrap_or_default();
        let lung = |side: &str, name: &str, share: f64, volume: f64| {
            html! {
                span.lung {
                    span.side title=(name) { (side) }
                    @if volume > 0.0 {
                        (bar(share))
                        span.value { (share_text(share)) }
                    } @else {
                        span.value { (self.t("no_lung")) }
                    }
                }
            }
        };
        html! {
            (lung("R", self.t("right_lung"), shares.right, volumes.right))
            (lung("L", self.t("left_lung"), shares.left, volumes.left))
            @if let Some(category) = &line.category { span.category { (category) } }
        }
    }

    /// Who acknowledged a flagged study, or that nobody has.
    fn acknowledged(&self, study: &Listed) -> Markup {
        html! {
            @if let (Some(alert), false) = (study.alert, study.flagged) {
                strong.open { (self.t("was_flagged")) " " (alert) ". " (self.t("not_acknowledged")) }
            }
            @match &study.acknowledged {
                _ if !study.flagged => {}
                Some((by, _)) if by.is_empty() => { span.hint { (self.t("acknowledged_before")) } }
                Some((by, at)) => {
                    span.acknowledged { "✓ " bdi { (by) } " " (self.t("acknowledged_at")) " " (self.time(*at)) }
                }
                None if study.alert.is_some() => { strong.open { (self.t("not_acknowledged")) } }
                None => {}
            }
        }
    }

    fn arrival(&self, study: &Listed) -> Markup {
        let state = self.state(study);
        html! {
            li class=(state.class) {
                time { (self.time(study.arrived_ms)) }
                " " a id={ "arrival-" (study.key.0) } href={ "/study/" (study.key.0) } { bdi { (self.patient_text(&study.subject)) } }
                " " span.word { span.sign aria-hidden="true" { (state.sign()) } " " (state.word) }
            }
        }
    }

    /// What nobody can miss: the alerts that nobody has acknowledged. Of an error it says so: silence would read as "none".
    pub fn alert_banner(&self, visitor: &Visitor) -> Markup {
        let (alerts, counts) = match (self.database.alerts(NAMED), self.database.alert_counts()) {
            (Ok(alerts), Ok(counts)) => (alerts, counts),
            (Err(error), _) | (_, Err(error)) => {
                log::error!("alerts can't be read: {error}");
                return html! { div.alert.escalated role="alert" { p { (self.t("error_inside")) } } };
            }
        };
        let (open, escalated) = counts;
        if open == 0 {
            return html! {};
        }
        html! {
            div.alert.escalated[escalated > 0] role="alert" {
                p.count {
                    span aria-hidden="true" { "▲ " }
                    @if escalated > 0 { (self.t("alert_escalated")) ": " }
                    (open) " " (self.t(if open == 1 { "alert_one" } else { "alert_many" }))
                }
                ul { @for alert in &alerts { (self.alert(alert, visitor)) } }
                @if open as usize > alerts.len() { p { (open as usize - alerts.len()) " " (self.t("alert_more")) } }
            }
        }
    }

    fn alert(&self, study: &Listed, visitor: &Visitor) -> Markup {
        let line = Line::of(study).unwrap_or_default();
        let revision = study.alert.unwrap_or_default();
        let action = format!("/study/{}/acknowledge", study.key.0);
        html! {
            li {
                span.who { (self.patient(&study.subject)) }
                @if let Some(category) = &line.category { span.category { (category) } }
                @if !study.flagged { span { (self.t("was_flagged")) " " (revision) } }
                time { (self.time(study.arrived_ms)) }
                a.button id={ "open-" (study.key.0) } href={ "/study/" (study.key.0) } { (self.t("open_study")) }
                @match &visitor.session {
                    Some(session) => {
                        form method="post" action=(action) {
                            (super::page::csrf(session))
                            input type="hidden" name="revision" value=(revision);
                            button.primary id={ "ack-" (study.key.0) } type="submit" {
                                (self.t("acknowledge_as")) " " bdi { (session.user.name) }
                            }
                        }
                    }
                    None => { a.button.primary id={ "ack-" (study.key.0) } href=(action) { (self.t("acknowledge")) } }
                }
            }
        }
    }
}

/// A bar of a share, 0 to 1, with its quarters: the categories CT-1 to CT-4.
fn bar(share: f64) -> Markup {
    let width = (100.0 * share.clamp(0.0, 1.0)).round();
    html! {
        svg.bar viewBox="0 0 100 12" preserveAspectRatio="none" aria-hidden="true" {
            rect.ground x="0" y="0" width="100" height="12" {}
            rect.share x="0" y="0" width=(width) height="12" {}
            @for x in [25, 50, 75] { rect.tick x=(x) y="0" width="1" height="12" {} }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_that_is_none_is_today() {
        for day in [None, Some("yesterday"), Some("2026-02-30"), Some("'; DROP TABLE")] {
            let asked = Asked { day: day.map(str::to_owned), page: Some(0) };
            let chosen = asked.chosen();
            assert_eq!((chosen.day, chosen.page), (None, 1), "{day:?}");
            assert!(matches!(chosen.period, Period::Since(_)));
        }
        let asked = Asked { day: Some("2020-02-29".into()), page: Some(usize::MAX) };
        let Period::Between(from, to) = asked.chosen().period else { panic!() };
        assert_eq!(to - from, 86_400_000);
        assert!(super::super::view::local(from).is_some());
    }
}
