//! Users, for engineers: who may change anything on this screen.
use super::App;
use super::door::is_refusal;
use super::page::{PageError, Visitor, csrf};
use crate::access::{Access, AccessError, Role};
use crate::intake::now_ms;
use axum::Extension;
use axum::extract::{Form, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};
use serde::Deserialize;
use std::sync::Arc;

/// `GET /users`.
pub async fn page(State(app): State<Arc<App>>, Extension(visitor): Extension<Visitor>) -> Response {
    app.make(visitor, |app, visitor| {
        app.engineer(visitor)?;
        Ok(app.frame(visitor, "users_title", app.users_body(visitor, None)?).into_response())
    })
    .await
}

/// What an engineer may do to a user.
#[derive(Deserialize)]
pub struct Change {
    #[serde(default)]
    csrf: String,
    action: Action,
    name: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    role: String,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Add,
    Password,
    Remove,
}

/// `POST /users`.
pub async fn change(
    State(app): State<Arc<App>>,
    Extension(visitor): Extension<Visitor>,
    Form(form): Form<Change>,
) -> Response {
    app.make(visitor, move |app, visitor| {
        app.engineer(visitor)?;
        if !visitor.session.as_ref().is_some_and(|session| Access::csrf_matches(session, &form.csrf)) {
            return Err(PageError::Forbidden);
        }
        let (by, now) = (visitor.who(), now_ms());
        let role = if form.role == "engineer" { Role::Engineer } else { Role::Technician };
        let changed = match form.action {
            Action::Add => app.access.add_user(&form.name, role, &form.password, &by, now),
            Action::Password => app.access.set_password(&form.name, &form.password, &by, now),
            Action::Remove => app.access.remove_user(&form.name, &by, now),
        };
        let (status, said) = match changed {
            Ok(()) => (StatusCode::OK, Ok(())),
            Err(error) if is_refusal(&error) => (StatusCode::UNPROCESSABLE_ENTITY, Err(error)),
            Err(error) => return Err(error.into()),
        };
        let page = app.frame(visitor, "users_title", app.users_body(visitor, Some(said))?);
        Ok((status, page).into_response())
    })
    .await
}

impl App {
    pub fn engineer(&self, visitor: &Visitor) -> Result<(), PageError> {
        match (visitor.is_engineer(), &visitor.session) {
            (true, _) => Ok(()),
            (false, Some(_)) => Err(PageError::Engineers),
            (false, None) => Err(PageError::Login { back: "/users".into() }),
        }
    }

    fn users_body(
        &self,
        visitor: &Visitor,
        said: Option<Result<(), AccessError>>,
    ) -> Result<Markup, PageError> {
        let Some(session) = &visitor.session else { return Err(PageError::Engineers) };
        let users = self.access.users()?;
        Ok(html! {
            h1 { (self.t("users_title")) }
            @match &said {
                Some(Ok(())) => { p role="status" { (self.t("users_done")) } }
                Some(Err(error)) => { p.error role="alert" { (error) } }
                None => {}
            }
            table {
                thead { tr { th scope="col" { (self.t("login_name")) } th scope="col" { (self.t("role")) } th scope="col" {} th scope="col" {} } }
                tbody { @for user in &users { tr {
                    th scope="row" { bdi { (user.name) } }
                    td { (self.role(user.role)) }
                    td { form.inline method="post" action="/users" {
                        (csrf(session))
                        input type="hidden" name="name" value=(user.name);
                        label { (self.t("new_password")) " "
                            input name="password" type="password" required maxlength="256" autocomplete="new-password"; }
                        button name="action" value="password" type="submit" { (self.t("users_password")) }
                    } }
                    td { form.inline method="post" action="/users" {
                        (csrf(session))
                        input type="hidden" name="name" value=(user.name);
                        button name="action" value="remove" type="submit" { (self.t("users_remove")) " " bdi { (user.name) } }
                    } }
                } } }
            }
            h2 { (self.t("users_add")) }
            form.login method="post" action="/users" {
                (csrf(session))
                label for="name" { (self.t("login_name")) }
                input #name name="name" required maxlength="64" autocomplete="off";
                label for="password" { (self.t("login_password")) }
                input #password name="password" type="password" required maxlength="256" autocomplete="new-password";
                label for="role" { (self.t("role")) }
                select #role name="role" {
                    option value="technician" { (self.t("role_technician")) }
                    option value="engineer" { (self.t("role_engineer")) }
                }
                button.primary name="action" value="add" type="submit" { (self.t("users_add")) }
            }
        })
    }

    fn role(&self, role: Role) -> &str {
        match role {
            Role::Technician => self.t("role_technician"),
            Role::Engineer => self.t("role_engineer"),
        }
    }
}
