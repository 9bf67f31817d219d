//! One study: picture, slices, numbers, what was sent where, the model's card; and its acknowledgement.
use super::App;
use super::door::Entered;
use super::page::{PageError, Visitor, csrf};
use super::view::{Line, seconds};
use crate::access::AccessError;
use crate::audit::{self, Action, Who};
use crate::database::{Entry, Listed, StudyKey};
use crate::intake::now_ms;
use axum::Extension;
use axum::extract::{Form, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use results::{score_text, share_text};
use serde::Deserialize;
use std::sync::Arc;

/// `GET /study/{key}`.
pub async fn page(
    State(app): State<Arc<App>>,
    Extension(visitor): Extension<Visitor>,
    Path(key): Path<i64>,
) -> Response {
    app.make(visitor, move |app, visitor| {
        app.viewer(visitor, &format!("/study/{key}"))?;
        let study = app.study(key)?;
        app.note(visitor.who(), Action::View(subject(&study)));
        let slices = app.database.view_slices(study.key)?;
        let body = html! {
            p.back { a href="/" { "◀ " (app.t("back_to_list")) } }
            div #live data-part={ "/part/study/" (key) } { (app.study_part(&study)?) }
            (app.viewer_of_slices(&study, slices.len()))
            (app.card(&study))
        };
        Ok(app.frame(visitor, "study_title", body).into_response())
    })
    .await
}

/// `GET /part/study/{key}`: what changes of it.
pub async fn part(
    State(app): State<Arc<App>>,
    Extension(visitor): Extension<Visitor>,
    Path(key): Path<i64>,
) -> Response {
    app.make(visitor, move |app, visitor| {
        app.viewer(visitor, &format!("/study/{key}"))?;
        let study = app.study(key)?;
        app.note(visitor.who(), Action::View(subject(&study)));
        Ok(app.study_part(&study)?.into_response())
    })
    .await
}

/// `GET /study/{key}/picture.png`.
pub async fn picture(
    State(app): State<Arc<App>>,
    Extension(visitor): Extension<Visitor>,
    Path(key): Path<i64>,
) -> Response {
    app.make(visitor, move |app, visitor| {
        app.viewer(visitor, &format!("/study/{key}"))?;
        app.note(visitor.who(), Action::View(subject(&app.study(key)?)));
        let picture = app.database.picture(StudyKey(key))?.filter(|png| !png.is_empty());
        let png = picture.ok_or(PageError::NotFound)?;
        Ok(([(header::CONTENT_TYPE, "image/png")], png).into_response())
    })
    .await
}

/// `GET /study/{key}/acknowledge`: who are you?
pub async fn acknowledge_form(
    State(app): State<Arc<App>>,
    Extension(visitor): Extension<Visitor>,
    Path(key): Path<i64>,
) -> Response {
    app.make(visitor, move |app, visitor| {
        app.viewer(visitor, &format!("/study/{key}"))?;
        let study = app.study(key)?;
        if study.alert.is_none() {
            return Ok(Redirect::to(&format!("/study/{key}")).into_response());
        }
        app.note(visitor.who(), Action::View(subject(&study)));
        Ok(app
            .frame(visitor, "acknowledge_title", app.acknowledge_body(visitor, &study, None))
            .into_response())
    })
    .await
}

/// What the form sends: a session's proof, or name and password.
#[derive(Deserialize)]
pub struct Acknowledgement {
    revision: u32,
    #[serde(default)]
    csrf: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    password: String,
}

/// `POST /study/{key}/acknowledge`.
pub async fn acknowledge(
    State(app): State<Arc<App>>,
    Extension(visitor): Extension<Visitor>,
    Path(key): Path<i64>,
    Form(form): Form<Acknowledgement>,
) -> Response {
    app.make(visitor, move |app, visitor| {
        app.viewer(visitor, &format!("/study/{key}/acknowledge"))?;
        let study = app.study(key)?;
        // With a name in the form it is that person's word, whoever is logged in at this browser.
        let (by, entered) = match &visitor.session {
            Some(session) if form.name.is_empty() => {
                if !crate::access::Access::csrf_matches(session, &form.csrf) {
                    return Err(PageError::Forbidden);
                }
                (session.user.name.clone(), None)
            }
            _ => match app.enter(visitor, &form.name, &form.password)? {
                Entered::In(token, session) => (session.user.name, Some(token)),
                Entered::Refused(error) => {
                    let body = app.acknowledge_body(visitor, &study, Some(&error));
                    let page = app.frame(visitor, "acknowledge_title", body);
                    return Ok((StatusCode::UNAUTHORIZED, page).into_response());
                }
            },
        };
        let done = app.writer.acknowledge(study.key, form.revision, &by, now_ms())?;
        if done {
            log::info!("study {} revision {}: acknowledged", study.study_uid, form.revision);
            let who = Who { user: Some(by), peer: Some(visitor.peer) };
            app.note(who, Action::Acknowledge(subject(&study)));
            app.board.changed();
        }
        if let Some(token) = entered {
            // The name was asked for this one word: a workstation that many share stays nobody's.
            app.access.logout(&token, visitor.peer, now_ms())?;
        }
        if !done {
            let body = html! {
                h1 { (app.t("acknowledge_title")) }
                p.error role="alert" { (app.t("somebody_was_faster")) }
                p { a href={ "/study/" (key) } { (app.t("open_study")) } }
            };
            let page = app.frame(visitor, "acknowledge_title", body);
            return Ok((StatusCode::CONFLICT, page).into_response());
        }
        Ok(Redirect::to("/").into_response())
    })
    .await
}

/// Whose study it is, for the audit trail.
pub fn subject(study: &Listed) -> audit::Subject {
    let patient_id = Some(study.subject.patient_id.clone()).filter(|id| !id.is_empty());
    audit::Subject { study_uid: study.study_uid.clone(), patient_id }
}

impl App {
    fn study(&self, key: i64) -> Result<Listed, PageError> {
        self.database.listed_one(StudyKey(key))?.ok_or(PageError::NotFound)
    }

    /// A study's page, as far as it changes.
    fn study_part(&self, study: &Listed) -> Result<Markup, PageError> {
        let state = self.state(study);
        let line = Line::of(study);
        let sent = self.database.entries_of(study.key)?;
        let history = self.database.acknowledgements(study.key)?;
        let has_picture =
            line.is_some() && self.database.picture(study.key)?.is_some_and(|png| !png.is_empty());
        let revision = study.revision.unwrap_or_default();
        Ok(html! {
            h1 class={ "study " (state.class) } {
                span.word { span.sign aria-hidden="true" { (state.sign()) } " " (state.word) }
                " " span.hint { (state.hint) }
            }
            p.whose { (self.patient(&study.subject)) }
            p.facts data-revision=(revision) {
                @if self.shows_patients() {
                    @if !study.subject.accession.is_empty() { bdi { (study.subject.accession) } " · " }
                    @if !study.subject.description.is_empty() { bdi { (study.subject.description) } " · " }
                }
                (self.t("column_arrival")) " " (self.time(study.arrived_ms))
                @if revision > 1 { " · " (self.t("revision")) " " (revision) }
                @if let Some(again) = &state.again { " · " strong.again { (again) } }
            }
            @if let Some(percent) = state.percent { progress max="100" value=(percent) aria-label=(state.word) {} }
            div.study {
                section.picture aria-labelledby="picture" {
                    h2 #picture { (self.t("picture_title")) }
                    @if has_picture {
                        img src={ "/study/" (study.key.0) "/picture.png?revision=" (revision) } alt=(state.word) width="1024" height="768";
                    } @else {
                        p.empty { (self.t("no_picture")) }
                    }
                }
                section.numbers aria-labelledby="numbers" {
                    h2 #numbers { (self.t("numbers_title")) }
                    @if let Some(line) = &line { (self.numbers(line)) }
                    (self.acknowledgement(study, &history))
                }
            }
            section aria-labelledby="sent" {
                h2 #sent { (self.t("sent_title")) }
                (self.sent(&sent))
            }
        })
    }

    fn numbers(&self, line: &Line) -> Markup {
        let (lungs, lesions) =
            (line.lung_volume_ml.unwrap_or_default(), line.lesion_volume_ml.unwrap_or_default());
        html! {
            dl {
                @if let Some(reason) = &line.reason { dt { (self.t("reason")) } dd { (reason) } }
                @if line.severity.is_none() && line.lung_volume_ml.is_some() {
                    dt { (self.t("severity")) } dd { (self.t("not_measured")) }
                }
                @if let Some(shares) = line.severity {
                    @for (name, share, lung, lesion) in [
                        (self.t("right_lung"), shares.right, lungs.right, lesions.right),
                        (self.t("left_lung"), shares.left, lungs.left, lesions.left),
                    ] {
                        dt { (name) }
                        dd {
                            @if lung > 0.0 {
                                strong { (share_text(share)) } " " (self.t("affected")) br;
                                (format!("{lung:.0}")) " ml " (self.t("volume")) ", "
                                (format!("{lesion:.0}")) " ml " (self.t("lesions"))
                            } @else { (self.t("no_lung")) }
                        }
                    }
                }
                @if let Some(category) = &line.category { dt { (self.t("category")) } dd { strong { (category) } } }
                dt { (self.t("column_priority")) } dd { strong { (self.priority(line)) } }
                @if let Some(probability) = line.probability {
                    dt { (self.t("score")) }
                    dd { (score_text(probability)) p.hint { (self.t("score_caveat")) } }
                }
                @if let Some(ms) = line.timings_ms.get("last_slice_to_outcome") {
                    dt { (self.t("column_flag_time")) } dd { (seconds(*ms)) }
                }
                @if let Some(engine) = &line.engine { dt { (self.t("engine")) } dd { (engine) } }
            }
        }
    }

    fn acknowledgement(&self, study: &Listed, history: &[(u32, String, i64)]) -> Markup {
        html! {
            @if study.alert.is_some() {
                p { a.button.primary #acknowledge href={ "/study/" (study.key.0) "/acknowledge" } { (self.t("acknowledge")) } }
            }
            @if !history.is_empty() {
                h3 { (self.t("history_title")) }
                ul { @for (revision, by, at) in history {
                    li { (self.t("revision")) " " (revision) ": " (self.t("acknowledged_by")) " " bdi { (by) } " "
                        (self.t("acknowledged_at")) " " (self.time(*at)) }
                } }
            }
        }
    }

    fn sent(&self, entries: &[Entry]) -> Markup {
        if entries.is_empty() {
            return html! { p.empty { (self.t("sent_nothing")) } };
        }
        html! {
            table.sent {
                thead { tr {
                    th scope="col" { (self.t("column_destination")) }
                    th scope="col" { (self.t("column_result")) }
                    th scope="col" { (self.t("column_delivery")) }
                    th scope="col" { (self.t("column_when")) }
                } }
                tbody { @for entry in entries {
                    tr class=(entry.state) {
                        th scope="row" { (entry.destination) }
                        td { (entry.kind) @if entry.revision > 1 { " (" (self.t("revision")) " " (entry.revision) ")" } }
                        td {
                            (self.delivery(&entry.state))
                            @if entry.attempts > 1 { " (" (entry.attempts) " " (self.t("attempts")) ")" }
                            @if let Some(error) = &entry.last_error { span.hint { (error) } }
                        }
                        td { (self.time(entry.delivered_ms.unwrap_or(entry.queued_ms))) }
                    }
                } }
            }
        }
    }

    fn delivery(&self, state: &str) -> &str {
        match state {
            "waiting" => self.t("delivery_waiting"),
            "stored" => self.t("delivery_stored"),
            "delivered" => self.t("delivery_delivered"),
            "parked" => self.t("delivery_parked"),
            _ => self.t("delivery_dropped"),
        }
    }

    /// The slices: their pictures come one by one, as they are asked for.
    fn viewer_of_slices(&self, study: &Listed, slices: usize) -> Markup {
        // Of a method that looks for no lesions there are no outlines, and none must be offered: nothing drawn would read as nothing found.
        let has_outlines = self.config.results.lesion_outlines
            && Line::of(study).is_some_and(|line| line.severity.is_some());
        html! {
            section.slices aria-labelledby="slices" {
                h2 #slices { (self.t("slices_title")) }
                @if slices == 0 {
                    p.empty { (self.t("no_slices")) }
                } @else {
                    div #viewer data-study=(study.key.0) data-slices=(slices) data-revision=(study.revision.unwrap_or_default()) {
                        img #slice src={ "/study/" (study.key.0) "/slice/" (slices / 2) "?window=lung" } alt=(self.t("slice")) width="512" height="512";
                        div.controls {
                            label for="position" {
                                (self.t("slice")) " " output #slice-number for="position" { (slices / 2 + 1) } " "
                                (self.t("slice_of")) " " (slices)
                            }
                            input #position type="range" min="0" max=(slices - 1) value=(slices / 2);
                            fieldset {
                                legend.hidden { (self.t("slices_title")) }
                                label { input type="radio" name="window" value="lung" checked; " " (self.t("window_lung")) }
                                label { input type="radio" name="window" value="soft"; " " (self.t("window_soft")) }
                                @if has_outlines {
                                    label { input #outlines type="checkbox"; " " (self.t("outlines")) }
                                }
                            }
                            p.hint { (self.t("slice_help")) }
                        }
                    }
                }
            }
        }
    }

    fn card(&self, study: &Listed) -> Markup {
        let Some(line) = Line::of(study) else { return html! {} };
        let card = self.analyzer.zoo().card();
        html! {
            section.card aria-labelledby="card" {
                h2 #card { (self.t("card_title")) }
                p { (self.t("method")) ": " (line.method.as_deref().unwrap_or(&card.name)) " "
                    (line.model_version.as_deref().unwrap_or(&card.version)) }
                details {
                    summary { (self.t("card_more")) }
                    pre { (card.text) }
                }
            }
        }
    }

    fn acknowledge_body(&self, visitor: &Visitor, study: &Listed, error: Option<&AccessError>) -> Markup {
        let line = Line::of(study).unwrap_or_default();
        html! {
            h1 { (self.t("acknowledge_title")) }
            p.whose { (self.patient(&study.subject)) " " @if let Some(category) = &line.category { span.category { (category) } } }
            form.login method="post" action={ "/study/" (study.key.0) "/acknowledge" } {
                input type="hidden" name="revision" value=(study.alert.unwrap_or_default());
                @if let Some(session) = &visitor.session {
                    (csrf(session))
                    button.primary type="submit" { (self.t("acknowledge_as")) " " bdi { (session.user.name) } }
                } @else {
                    (self.who(error))
                    p.hint { (self.t("acknowledge_hint")) }
                    button.primary type="submit" { (self.t("acknowledge")) }
                }
            }
            p { a href="/" { (self.t("back_to_list")) } }
        }
    }
}
