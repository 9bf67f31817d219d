//! The door: login, logout, and the first user of a box.
use super::App;
use super::page::{PageError, Visitor, cookie};
use crate::access::{Access, AccessError, Session, Setup};
use crate::intake::now_ms;
use axum::Extension;
use axum::extract::{Form, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use serde::Deserialize;
use std::sync::Arc;

/// What came of name and password.
pub enum Entered {
    /// A session's token, and the session.
    In(String, Session),
    /// Not, and why.
    Refused(AccessError),
}

/// Where to go afterwards.
#[derive(Debug, Default, Deserialize)]
pub struct Back {
    #[serde(default)]
    back: String,
}

/// Name and password.
#[derive(Deserialize)]
pub struct Credentials {
    #[serde(default)]
    name: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    back: String,
}

/// What makes an engineer.
#[derive(Deserialize)]
pub struct SetupForm {
    #[serde(default)]
    code: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    again: String,
}

/// A path of this box; anything else leads to the list.
fn own_path(back: &str) -> &str {
    let own = back.starts_with('/') && !back.starts_with("//") && !back.contains(['\\', '\r', '\n']);
    if own { back } else { "/" }
}

/// `GET /login`.
pub async fn form(
    State(app): State<Arc<App>>,
    Extension(visitor): Extension<Visitor>,
    Query(back): Query<Back>,
) -> Response {
    app.make(visitor, move |app, visitor| {
        if app.access.needs_setup()? {
            return Ok(Redirect::to("/setup").into_response());
        }
        Ok(app.frame(visitor, "login_title", app.login_body(&back.back, None)?).into_response())
    })
    .await
}

/// `POST /login`.
pub async fn login(
    State(app): State<Arc<App>>,
    Extension(visitor): Extension<Visitor>,
    Form(form): Form<Credentials>,
) -> Response {
    app.make(visitor, move |app, visitor| match app.enter(visitor, &form.name, &form.password)? {
        Entered::In(token, _) => {
            if let Some(old) = &visitor.token {
                app.access.logout(old, visitor.peer, now_ms())?;
            }
            Ok(([cookie(app, &token)], Redirect::to(own_path(&form.back))).into_response())
        }
        Entered::Refused(error) => {
            let body = app.login_body(&form.back, Some(&error))?;
            Ok((StatusCode::UNAUTHORIZED, app.frame(visitor, "login_title", body)).into_response())
        }
    })
    .await
}

/// What a form of a logged-in user carries at least.
#[derive(Deserialize)]
pub struct Proof {
    #[serde(default)]
    csrf: String,
}

/// `POST /logout`.
pub async fn logout(
    State(app): State<Arc<App>>,
    Extension(visitor): Extension<Visitor>,
    Form(form): Form<Proof>,
) -> Response {
    app.make(visitor, move |app, visitor| {
        if let (Some(session), Some(token)) = (&visitor.session, &visitor.token) {
            if !Access::csrf_matches(session, &form.csrf) {
                return Err(PageError::Forbidden);
            }
            app.access.logout(token, visitor.peer, now_ms())?;
        }
        Ok(([cookie(app, "")], Redirect::to("/")).into_response())
    })
    .await
}

/// `GET /setup`.
pub async fn setup_form(State(app): State<Arc<App>>, Extension(visitor): Extension<Visitor>) -> Response {
    app.make(visitor, |app, visitor| {
        let Some(setup) = app.setup()? else { return Ok(Redirect::to("/login").into_response()) };
        Ok(app.setup_page(visitor, setup, None).into_response())
    })
    .await
}

/// `POST /setup`.
pub async fn setup(
    State(app): State<Arc<App>>,
    Extension(visitor): Extension<Visitor>,
    Form(form): Form<SetupForm>,
) -> Response {
    app.make(visitor, move |app, visitor| {
        let setup = app.setup()?.unwrap_or(Setup::First);
        let refused = |why: &str| {
            Ok((StatusCode::UNAUTHORIZED, app.setup_page(visitor, setup, Some(why))).into_response())
        };
        if form.password != form.again {
            return refused(app.t("setup_differ"));
        }
        match app.access.setup(&form.code, &form.name, &form.password, visitor.peer, now_ms()) {
            Ok((token, _)) => Ok(([cookie(app, &token)], Redirect::to("/")).into_response()),
            Err(error) if is_refusal(&error) => refused(&error.to_string()),
            Err(error) => Err(error.into()),
        }
    })
    .await
}

/// Whether it is the visitor's doing, and not the box's own trouble.
pub fn is_refusal(error: &AccessError) -> bool {
    !matches!(
        error,
        AccessError::SetupCodeFile { .. }
            | AccessError::Hash(_)
            | AccessError::Random(_)
            | AccessError::Database(_)
    )
}

impl App {
    /// Lets somebody in, or not.
    ///
    /// # Errors
    /// The box's own trouble; a refusal is none.
    pub fn enter(&self, visitor: &Visitor, name: &str, password: &str) -> Result<Entered, PageError> {
        match self.access.login(name, password, visitor.peer, now_ms()) {
            Ok((token, session)) => Ok(Entered::In(token, session)),
            Err(error) if is_refusal(&error) => Ok(Entered::Refused(error)),
            Err(error) => Err(error.into()),
        }
    }

    /// The fields for name and password.
    pub fn who(&self, error: Option<&AccessError>) -> Markup {
        html! {
            @if let Some(error) = error { p.error role="alert" { (error) } }
            label for="name" { (self.t("login_name")) }
            input #name name="name" required maxlength="64" autocomplete="username" autofocus;
            label for="password" { (self.t("login_password")) }
            input #password name="password" type="password" required maxlength="256" autocomplete="current-password";
        }
    }

    /// What the setup page is good for now, if for anything.
    fn setup(&self) -> Result<Option<Setup>, PageError> {
        if self.access.needs_setup()? {
            return Ok(Some(Setup::First));
        }
        Ok(self.access.read_setup_code()?.map(|(setup, _)| setup))
    }

    fn login_body(&self, back: &str, error: Option<&AccessError>) -> Result<Markup, PageError> {
        let setup = self.setup()?;
        Ok(html! {
            h1 { (self.t("login_title")) }
            @if !back.is_empty() { p { (self.t("login_needed")) } }
            form.login method="post" action="/login" {
                input type="hidden" name="back" value=(own_path(back));
                (self.who(error))
                button.primary type="submit" { (self.t("login_title")) }
            }
            p.hint { (self.t("login_hint")) }
            @if setup.is_some() { p { a href="/setup" { (self.t("setup_another")) } } }
        })
    }

    fn setup_page(&self, visitor: &Visitor, setup: Setup, error: Option<&str>) -> Markup {
        let (title, hint) = match setup {
            Setup::First => ("setup_title", self.t("setup_hint")),
            Setup::Another => ("setup_another", self.t("setup_another_hint")),
        };
        let body = html! {
            h1 { (self.t(title)) }
            p { (hint) }
            form.login method="post" action="/setup" {
                @if let Some(error) = error { p.error role="alert" { (error) } }
                label for="code" { (self.t("setup_code")) }
                input #code name="code" required maxlength="64" autocomplete="off" autofocus;
                label for="name" { (self.t("login_name")) }
                input #name name="name" required maxlength="64" autocomplete="username";
                label for="password" { (self.t("login_password")) }
                input #password name="password" type="password" required maxlength="256" autocomplete="new-password";
                label for="again" { (self.t("login_again")) }
                input #again name="again" type="password" required maxlength="256" autocomplete="new-password";
                button.primary type="submit" { (self.t("setup_make")) }
            }
        };
        self.frame(visitor, title, body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_back_leads_nowhere_else() {
        for (back, to) in [
            ("/study/3", "/study/3"),
            ("https://elsewhere", "/"),
            ("//elsewhere", "/"),
            ("/\\elsewhere", "/"),
            ("/a\r\nSet-Cookie: x", "/"),
            ("", "/"),
        ] {
            assert_eq!(own_path(back), to);
        }
    }
}
