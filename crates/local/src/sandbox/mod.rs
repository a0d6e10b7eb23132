//! Chat templates in a process of their own.
//!
//! A template is a program that comes with a stranger's model. A single instruction of it may ask for gigabytes or not
//! end, and no thread can be stopped. A process can: it lowers its own limits of memory and time before it reads
//! anything, and whoever waits for it ends it when nobody wants the answer any more.

mod frame;
mod process;
mod worker;

pub(crate) use process::TemplateProcesses;
pub use process::TemplateWorker;
pub use worker::run_template_worker;
