//! For monitors: `/health` in a word, `/metrics` for Prometheus. Neither names a patient or a study, and neither needs a login.
use super::App;
use super::box_page::{bounds_s, histogram};
use super::page::{PageError, Visitor};
use crate::intake::now_ms;
use axum::Extension;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use engine::EngineState;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// `GET /health`: 200 and `ok`, or 503 and what is wrong, a line each.
pub async fn health(State(app): State<Arc<App>>, Extension(visitor): Extension<Visitor>) -> Response {
    app.make(visitor, |app, _| {
        let mut wrong = Vec::new();
        match app.spool.is_short() {
            Ok(false) => {}
            Ok(true) => wrong.push("storage runs short".to_owned()),
            Err(_) => wrong.push("the storage can't be read".to_owned()),
        }
        if app.database.alert_counts().is_err() {
            wrong.push("the database can't be read".to_owned());
        }
        for engine in app.analyzer.engines().status() {
            if matches!(engine.state, EngineState::Out { .. }) {
                wrong.push(format!("engine {} is out", engine.name));
            }
        }
        for destination in &app.config.destinations {
            let parked = app.database.counts(destination.name())?.parked;
            if parked > 0 {
                wrong.push(format!("{parked} results for {} are given up", destination.name()));
            }
        }
        if wrong.is_empty() {
            return Ok("ok\n".into_response());
        }
        Ok((StatusCode::SERVICE_UNAVAILABLE, wrong.join("\n") + "\n").into_response())
    })
    .await
}

/// `GET /metrics`: the text format, version 0.0.4.
pub async fn metrics(State(app): State<Arc<App>>, Extension(visitor): Extension<Visitor>) -> Response {
    app.make(visitor, |app, _| {
        let text = app.cached_metrics()?;
        Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
    })
    .await
}

/// How long an answer stands: who asks more often reads no more.
const FRESH: Duration = Duration::from_secs(10);

/// The last answer.
#[derive(Default)]
pub struct Cache(Mutex<Option<(Instant, String)>>);

impl App {
    fn cached_metrics(&self) -> Result<String, PageError> {
        let mut last = self.metrics.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, text)) = last.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return Ok(text.clone());
        }
        let text = self.metrics()?;
        *last = Some((Instant::now(), text.clone()));
        Ok(text)
    }

    fn metrics(&self) -> Result<String, PageError> {
        let mut out = Metrics::default();
        let [receiving, waiting, analysing] = self.board.counts();
        let states = [("receiving", receiving), ("waiting", waiting), ("analysing", analysing)];
        out.gauge("triaged_studies", "Studies without an outcome, by what they do", "state", &states);
        let outcomes = self.database.outcome_counts()?;
        let outcomes: Vec<_> = outcomes.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        out.family(
            "triaged_outcomes_total",
            "counter",
            "Outcomes since the box was set up",
            "outcome",
            &outcomes,
        );
        let (alerts, escalated) = self.database.alert_counts()?;
        let alerts = [("open", alerts as usize), ("escalated", escalated as usize)];
        out.gauge("triaged_alerts", "Alerts that nobody has acknowledged", "state", &alerts);
        let mut by_destination = [Vec::new(), Vec::new()];
        for destination in &self.config.destinations {
            let counts = self.database.counts(destination.name())?;
            by_destination[0].push((destination.name(), (counts.waiting + counts.stored) as usize));
            by_destination[1].push((destination.name(), counts.parked as usize));
        }
        out.gauge("triaged_outbox_waiting", "Results on their way", "destination", &by_destination[0]);
        out.gauge("triaged_outbox_parked", "Results that were given up", "destination", &by_destination[1]);
        let engines = self.analyzer.engines().status();
        let up: Vec<_> =
            engines.iter().map(|e| (e.name, usize::from(e.state == EngineState::Ready))).collect();
        out.gauge("triaged_engine_up", "Whether an engine takes work", "engine", &up);
        let falls: Vec<_> = engines.iter().map(|e| (e.name, e.falls as usize)).collect();
        let help = "Work that fell from an engine to the next one";
        out.family("triaged_engine_falls_total", "counter", help, "engine", &falls);
        if let Ok(free) = self.spool.free_mib() {
            out.gauge(
                "triaged_storage_free_mebibytes",
                "Free space of the storage",
                "",
                &[("", free as usize)],
            );
        }
        self.latency_metric(&mut out)?;
        Ok(out.0)
    }

    fn latency_metric(&self, out: &mut Metrics) -> Result<(), PageError> {
        let values = self.database.latencies_ms(i64::MIN)?;
        let name = "triaged_last_slice_to_outcome_seconds";
        out.head(name, "histogram", "From the last slice to the outcome");
        let mut sum = 0;
        for (bound, count) in bounds_s().zip(histogram(&values)) {
            sum += count;
            let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
            out.line(&format!("{name}_bucket{{le=\"{bound}\"}} {sum}"));
        }
        out.line(&format!("{name}_sum {}", values.iter().sum::<f64>() / 1e3));
        out.line(&format!("{name}_count {}", values.len()));
        out.head("triaged_clock_seconds", "gauge", "The box's clock");
        out.line(&format!("triaged_clock_seconds {}", now_ms() / 1000));
        Ok(())
    }
}

#[derive(Default)]
struct Metrics(String);

impl Metrics {
    fn line(&mut self, line: &str) {
        writeln!(self.0, "{line}").expect("writing to a string can't fail");
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.line(&format!("# HELP {name} {help}"));
        self.line(&format!("# TYPE {name} {kind}"));
    }

    fn gauge(&mut self, name: &str, help: &str, label: &str, values: &[(&str, usize)]) {
        self.family(name, "gauge", help, label, values);
    }

    fn family(&mut self, name: &str, kind: &str, help: &str, label: &str, values: &[(&str, usize)]) {
        self.head(name, kind, help);
        for (value, number) in values {
            let labels =
                if label.is_empty() { String::new() } else { format!("{{{label}=\"{}\"}}", escape(value)) };
            self.line(&format!("{name}{labels} {number}"));
        }
    }
}

/// As the format asks for in a label's value.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_in_the_text_format() {
        let mut out = Metrics::default();
        out.gauge("a", "What", "to", &[("p\"acs\n", 3)]);
        out.gauge("b", "That", "", &[("", 0)]);
        let expected =
            "# HELP a What\n# TYPE a gauge\na{to=\"p\\\"acs\\n\"} 3\n# HELP b That\n# TYPE b gauge\nb 0\n";
        assert_eq!(out.0, expected);
    }
}
