//! Every integer of a header with every boundary value, and every place where a file can be cut.

use crate::examine::open_and_examine;
use crate::fields::{self, Layout};
use crate::samples::{self, Sample};

fn boundaries(samples: &[Sample], layout: fn(&[u8]) -> Layout) {
    for sample in samples {
        for &field in &layout(&sample.bytes).integers {
            for value in fields::boundary_values(&sample.bytes, field) {
                let mut file = sample.bytes.clone();
                fields::put(&mut file, field, value);
                if let Err(problem) = open_and_examine(&sample.path, file) {
                    panic!("{} at {} := {value}: {problem}", sample.path.display(), field.offset);
                }
            }
        }
    }
}

fn truncations(samples: &[Sample], layout: fn(&[u8]) -> Layout) {
    for sample in samples {
        let end = layout(&sample.bytes).header_end;
        let after = [end + 1, (end + sample.bytes.len()) / 2, sample.bytes.len() - 100];
        for cut in (0..end).chain(after) {
            let opened = open_and_examine(&sample.path, sample.bytes[..cut].to_vec());
            assert_eq!(opened, Ok(false), "cut at {cut} of {}", sample.bytes.len());
        }
    }
}

#[test]
fn samples_open() {
    for sample in samples::gguf().into_iter().chain(samples::safetensors()) {
        assert_eq!(open_and_examine(&sample.path, sample.bytes), Ok(true));
    }
}

#[test]
fn gguf_integers_at_their_boundaries() {
    boundaries(&samples::gguf(), fields::gguf);
}

#[test]
fn safetensors_integers_at_their_boundaries() {
    boundaries(&samples::safetensors(), fields::safetensors);
}

#[test]
fn cut_gguf_files_are_refused() {
    truncations(&samples::gguf(), fields::gguf);
}

#[test]
fn cut_safetensors_files_are_refused() {
    truncations(&samples::safetensors(), fields::safetensors);
}
