//! The templates: a list of them, and rendering one with data, without sending anything.

use axum::Json;
use axum::extract::{FromRequestParts, Request, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::SharedDoor;
use super::body::MediaType;
use super::data::TemplateData;
use super::operate::RelayName;
use super::params::Params;
use super::problem::{Kind, Problem, malformed, misshapen};
use crate::mail::{Content, TemplateUse};
use crate::{TemplateError, TemplateInfo};

/// All templates.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TemplateList {
    /// Each template, by name.
    templates: Vec<TemplateInfo>,
}

/// The data to render a template with.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with data and locale")]
pub(super) struct RenderRequest {
    /// The values of its variables; its sample data when absent.
    data: Option<TemplateData>,
    /// The language; the closest available one is used.
    #[schema(example = "pt-BR")]
    locale: Option<String>,
}

/// A rendered template.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Rendered {
    #[serde(flatten)]
    template: TemplateUse,
    /// The subject.
    subject: Option<String>,
    /// The body as HTML.
    html: Option<String>,
    /// The body as plain text.
    text: Option<String>,
}

/// The templates, with the variables that each needs.
#[utoipa::path(
    get, path = "/v1/templates", tag = "templates",
    responses((status = 200, description = "Each template", body = TemplateList)),
)]
pub(super) async fn list(State(door): State<SharedDoor>) -> Json<TemplateList> {
    Json(TemplateList {
        templates: door.dispatcher.templates().list(),
    })
}

/// Renders a template and sends nothing: a preview.
#[utoipa::path(
    post, path = "/v1/templates/{name}/render", tag = "templates",
    params(("name" = String, Path, description = "The template")),
    request_body(content = RenderRequest, content_type = "application/json"),
    responses((status = 200, description = "The rendered mail", body = Rendered)),
)]
pub(super) async fn render(
    State(door): State<SharedDoor>,
    request: Request,
) -> Result<Json<Rendered>, Problem> {
    let (mut parts, body) = request.into_parts();
    Params::of(parts.uri.query()).finish()?;
    let RelayName(name) = RelayName::from_request_parts(&mut parts, &door).await?;

    let held = door.collect_json(body, super::data::MAX_DATA).await?;
    if !held.bytes.is_empty() && MediaType::of(&parts.headers)? != MediaType::Json {
        return Err(Problem::new(
            Kind::MediaType,
            "data is taken as application/json",
        ));
    }

    let templates = door.dispatcher.templates().clone();
    let read = move |json: &bytes::Bytes| {
        let request = match json.trim_ascii() {
            b"" => RenderRequest::default(),
            json => read(json)?,
        };
        let locale = request
            .locale
            .as_deref()
            .filter(|locale| !locale.is_empty());
        let content = match request.data {
            Some(data) => templates.render(&name, data.0, locale),
            None => templates.render_sample(&name, locale),
        };
        content.map_err(|error| match error {
            // The template is named by the path.
            TemplateError::Unknown(_) => Problem::new(Kind::NotFound, error.to_string()),
            error => Problem::of_template(error, ""),
        })
    };

    let (content, _room) = door.off_task(held, true, read).await?;
    let Content {
        subject,
        html,
        text,
        template,
        ..
    } = content;

    Ok(Json(Rendered {
        template,
        subject,
        html,
        text,
    }))
}

fn read(json: &[u8]) -> Result<RenderRequest, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    match serde_path_to_error::deserialize::<_, RenderRequest>(&mut reader) {
        Ok(request) => Ok(request),
        Err(error) if error.inner().is_data() => Err(Problem::invalid(vec![misshapen(error)])),
        Err(error) => Err(malformed(error.inner())),
    }
}
