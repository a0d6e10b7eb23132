//! The one table of routes: the router, the guard, the metrics, the description and the tests are made from it.

use std::sync::Arc;

use axum::Router;
use axum::routing::{MethodRouter, get, post};
use levain_wire::openai::table::{self, Field};

use crate::handlers::{chat, completions, embeddings, models, native, service};
use crate::reply;
use crate::state::Shared;

type Tables = &'static [&'static [Field]];

const CHAT: Tables = &[table::CHAT, table::PEERS];

/// A route.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Route {
    /// The one method it takes (`HEAD` goes where `GET` goes).
    pub method: &'static str,
    /// The path; `{*id}` stands for the rest, slashes included.
    pub path: &'static str,
    /// Answers without a key.
    pub open: bool,
    /// What it does.
    pub summary: &'static str,
    /// The tables of its body's fields and the names of the required ones.
    pub body: Option<(Tables, &'static [&'static str])>,
    handler: fn() -> MethodRouter<Arc<Shared>>,
}

const fn read(
    path: &'static str,
    summary: &'static str,
    handler: fn() -> MethodRouter<Arc<Shared>>,
) -> Route {
    Route { method: "GET", path, open: false, summary, body: None, handler }
}

const fn call(
    path: &'static str,
    summary: &'static str,
    body: (Tables, &'static [&'static str]),
    handler: fn() -> MethodRouter<Arc<Shared>>,
) -> Route {
    Route { method: "POST", path, open: false, summary, body: Some(body), handler }
}

const fn open(route: Route) -> Route {
    Route { open: true, ..route }
}

/// All routes.
pub const ROUTES: &[Route] = &[
    call("/v1/chat/completions", "Answer a conversation", (CHAT, &["messages"]), || post(chat::create)),
    call("/v1/completions", "Continue a text", (&[table::COMPLETION, table::PEERS], &["prompt"]), || {
        post(completions::create)
    }),
    call("/v1/embeddings", "Turn texts into vectors", (&[table::EMBEDDING], &["input"]), || {
        post(embeddings::create)
    }),
    read("/v1/models", "List the models", || get(models::list)),
    read("/v1/models/{*id}", "Describe a model", || get(models::one)),
    call("/tokenize", "Text to tokens", (&[table::TOKENIZE], &["content"]), || post(native::tokenize)),
    call("/detokenize", "Tokens to text", (&[table::DETOKENIZE], &["tokens"]), || post(native::detokenize)),
    call("/apply-template", "Render the chat template without generating", (CHAT, &["messages"]), || {
        post(native::apply_template)
    }),
    open(read("/health", "Tell that the process lives", || get(service::health))),
    open(read("/ready", "Tell whether a model is loaded and requests are taken", || get(service::ready))),
    read("/metrics", "Counters and histograms for Prometheus", || get(service::metrics)),
    read("/openapi.json", "Describe this interface", || get(service::openapi)),
];

/// The table's route for a path, whatever the method.
pub(crate) fn find(path: &str) -> Option<&'static Route> {
    ROUTES.iter().find(|route| match route.path.split_once("{*") {
        Some((prefix, _)) => path.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty()),
        None => route.path == path,
    })
}

/// The routes with their handlers, nothing guarded yet.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let allowed = match route.method {
            "GET" => "GET, HEAD",
            method => method,
        };
        let handler = (route.handler)().fallback(move || async move { reply::wrong_method(allowed) });
        router = router.route(route.path, handler);
    }
    router.fallback(service::nothing_here).with_state(shared)
}
