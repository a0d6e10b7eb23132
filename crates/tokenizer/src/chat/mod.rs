//! Conversations to prompts, by the template that comes with a model.

mod date;
mod environment;
mod guard;
mod json;
mod methods;
mod python;
mod renderer;
mod source;
mod template;

pub use date::Date;
pub use renderer::{CompiledTemplate, RenderFailure, RenderJob, TemplateRenderer};
pub use template::{ChatInput, ChatTemplate, MakeRenderer, RenderedChat};
