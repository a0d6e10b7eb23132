//! The server over real connections, in front of a provider without a model.

#[cfg(test)]
mod abuse;
#[cfg(test)]
mod access;
#[cfg(test)]
mod answers;
#[cfg(test)]
mod client;
#[cfg(test)]
mod cors;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod key_header;
#[cfg(test)]
mod leave;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod shutdown;
