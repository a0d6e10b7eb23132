//! OpenAI's dialect, read and written.

#[cfg(test)]
mod answers;
#[cfg(test)]
mod chat_requests;
#[cfg(test)]
mod clients;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod prompt_requests;
#[cfg(test)]
mod tables;
