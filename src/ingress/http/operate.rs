//! Operating the service: relays, statistics, health.

use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::http::header;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::SharedDoor;
use super::access::Caller;
use super::body::MediaType;
use super::params::Params;
use super::problem::{Kind, Problem};
use super::records::segment;
use crate::dispatch::{RelayStatus, Stats, WaitingDomains};
use crate::spool::NodeStatus;

/// The media type of `/metrics` (OpenMetrics 1.0).
pub(super) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The largest request to pause in bytes, and the longest reason in characters.
const MAX_PAUSE_REQUEST: usize = 16 * 1024;
const MAX_REASON: usize = 400;

/// The relay that a path names.
pub(super) struct RelayName(pub String);

impl FromRequestParts<SharedDoor> for RelayName {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, door: &SharedDoor) -> Result<Self, Problem> {
        Params::of(parts.uri.query()).finish()?;
        segment(parts, door).await.map(RelayName)
    }
}

/// All relays.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Relays {
    /// Each relay, with its current state.
    relays: Vec<RelayStatus>,
}

/// A positive health check.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HealthAnswer {
    /// `live` or `ready`.
    status: &'static str,
    /// What keeps accepted mail from being sent: the relays that are down without an alternative in
    /// some route, with their errors. Absent if all is well.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// The relays, with their current state.
#[utoipa::path(
    get, path = "/v1/relays", tag = "service",
    responses((status = 200, description = "Each relay", body = Relays)),
)]
pub(super) async fn relays(State(door): State<SharedDoor>) -> Result<Json<Relays>, Problem> {
    Ok(Json(Relays {
        relays: door.dispatcher.relays().await?,
    }))
}

/// How much mail waits for a relay, by the recipients' domain: as the relay's `backlog` counts it,
/// at the time of the count.
#[utoipa::path(
    get, path = "/v1/relays/{name}/domains", tag = "service",
    params(("name" = String, Path, description = "The relay")),
    responses((status = 200, description = "The domains, the one with the most first",
        body = WaitingDomains)),
)]
pub(super) async fn domains(
    State(door): State<SharedDoor>,
    RelayName(name): RelayName,
) -> Result<Json<WaitingDomains>, Problem> {
    Ok(Json(door.dispatcher.relays().domains(&name).await?))
}

/// The reason for pausing a relay.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PauseRequest {
    /// The reason, for other operators; at most 400 characters.
    #[schema(max_length = 400)]
    reason: Option<String>,
}

impl FromRequest<SharedDoor> for PauseRequest {
    type Rejection = Problem;
    async fn from_request(request: Request, door: &SharedDoor) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let held = door.collect_json(body, MAX_PAUSE_REQUEST).await?;
        if held.bytes.is_empty() {
            return Ok(PauseRequest::default());
        }
        if MediaType::of(&parts.headers)? != MediaType::Json {
            return Err(Problem::new(
                Kind::MediaType,
                "Content-Type must be application/json",
            ));
        }

        let request: Self = held.json()?;

        let length = request.reason().map_or(0, |reason| reason.chars().count());
        if length > MAX_REASON {
            let detail = format!("has {length} characters; at most {MAX_REASON} are told");
            return Err(Problem::invalid_field("/reason", detail));
        }
        Ok(request)
    }
}

impl PauseRequest {
    fn reason(&self) -> Option<&str> {
        let reason = self.reason.as_deref().map(str::trim);
        reason.filter(|reason| !reason.is_empty())
    }
}

/// Stops sending over a relay; its mail takes the route's next relay, or waits.
#[utoipa::path(
    post, path = "/v1/relays/{name}/pause", tag = "service",
    params(("name" = String, Path, description = "The relay")),
    request_body(
        content = Option<PauseRequest>, description = "The reason, to be shown with the relay"
    ),
    responses((status = 200, description = "The relay", body = RelayStatus)),
)]
pub(super) async fn pause(
    State(door): State<SharedDoor>,
    Extension(visitor): Extension<Caller>,
    RelayName(name): RelayName,
    request: PauseRequest,
) -> Result<Json<RelayStatus>, Problem> {
    let dispatcher = visitor.acts_on(&door.dispatcher);
    match request.reason() {
        Some(reason) => dispatcher.relays().pause_because(&name, reason).await?,
        None => dispatcher.pause(&name).await?,
    }
    relay(&door, &name).await
}

/// Resumes sending over a relay.
#[utoipa::path(
    post, path = "/v1/relays/{name}/resume", tag = "service",
    params(("name" = String, Path, description = "The relay")),
    responses((status = 200, description = "The relay", body = RelayStatus)),
)]
pub(super) async fn resume(
    State(door): State<SharedDoor>,
    Extension(visitor): Extension<Caller>,
    RelayName(name): RelayName,
) -> Result<Json<RelayStatus>, Problem> {
    visitor.acts_on(&door.dispatcher).resume(&name).await?;
    relay(&door, &name).await
}

async fn relay(door: &SharedDoor, name: &str) -> Result<Json<RelayStatus>, Problem> {
    let relays = door.dispatcher.relays().await?;
    let found = relays.into_iter().find(|relay| relay.name == name);
    found
        .map(Json)
        .ok_or_else(|| Problem::new(Kind::NotFound, "the relay was taken away at this moment"))
}

/// The nodes that share the spool.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Nodes {
    /// The live nodes, the oldest first; empty if the spool belongs to this service alone.
    nodes: Vec<NodeStatus>,
    /// Problems of what they share that do not stop them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// The nodes that share the spool.
#[utoipa::path(
    get, path = "/v1/nodes", tag = "service",
    responses((status = 200, description = "The nodes", body = Nodes)),
)]
pub(super) async fn nodes(State(door): State<SharedDoor>) -> Result<Json<Nodes>, Problem> {
    let nodes = door.dispatcher.nodes().await?.unwrap_or_default();
    let warnings = door.dispatcher.cluster_warnings();
    Ok(Json(Nodes { nodes, warnings }))
}

/// The engine's statistics.
#[utoipa::path(
    get, path = "/v1/stats", tag = "service",
    responses((status = 200, description = "Counts by state, rates, the age of the oldest, per \
                                            relay", body = Stats)),
)]
pub(super) async fn stats(State(door): State<SharedDoor>) -> Result<Json<Stats>, Problem> {
    Ok(Json(door.dispatcher.stats().await?))
}

/// The configuration from files and the environment as it was last read, without secrets.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Told)]
pub(super) struct ShownConfiguration {
    /// The sections with the keys that are set; all others have their defaults.
    #[schema(value_type = Object)]
    configuration: serde_json::Value,
}

/// The configuration, without secrets.
#[utoipa::path(
    get, path = "/v1/configuration", tag = "service",
    responses((status = 200, description = "What is set", body = ShownConfiguration)),
)]
pub(super) async fn configuration(State(door): State<SharedDoor>) -> Json<ShownConfiguration> {
    let configuration = match door.configuration.current() {
        serde_json::Value::Null => serde_json::json!({}),
        set => set,
    };
    Json(ShownConfiguration { configuration })
}

/// All metrics, for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "service",
    responses((
        status = 200, description = "OpenMetrics 1.0", body = String,
        content_type = "application/openmetrics-text",
    )),
)]
pub(super) async fn metrics(State(door): State<SharedDoor>) -> Result<Response, Problem> {
    Ok((
        [(header::CONTENT_TYPE, OPEN_METRICS)],
        door.dispatcher.metrics().await?,
    )
        .into_response())
}

/// Whether the service runs.
#[utoipa::path(
    get, path = "/health/live", tag = "service",
    responses((status = 200, description = "It runs", body = HealthAnswer)),
)]
pub(super) async fn live() -> Json<HealthAnswer> {
    Json(HealthAnswer {
        status: "live",
        warnings: Vec::new(),
    })
}

/// Whether mail is accepted. It is also accepted while relays are down, since it waits then;
/// `warnings` names them, and what keeps the database from removing dead rows.
#[utoipa::path(
    get, path = "/health/ready", tag = "service",
    responses((status = 200, description = "Mail is accepted", body = HealthAnswer)),
)]
pub(super) async fn ready(State(door): State<SharedDoor>) -> Result<Json<HealthAnswer>, Problem> {
    let health = door.dispatcher.health();
    if health.ready {
        return Ok(Json(HealthAnswer {
            status: "ready",
            warnings: health.warnings,
        }));
    }

    Err(Problem::new(
        Kind::Unavailable,
        health
            .reason
            .unwrap_or_else(|| "no mail is accepted now".to_owned()),
    ))
}
