//! The local provider as its users see it.

#[cfg(test)]
mod answers;
#[cfg(test)]
mod common;
#[cfg(test)]
mod completions;
#[cfg(test)]
mod examine;
#[cfg(test)]
mod files;
#[cfg(test)]
mod gguf_model;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod real;
#[cfg(test)]
mod reasoning;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod speculation;
#[cfg(test)]
mod thinking;
#[cfg(test)]
mod tool_calls;
#[cfg(test)]
mod tools;
#[cfg(test)]
mod turns;
