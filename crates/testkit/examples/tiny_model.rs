//! Writes a tiny model of random weights, vocabulary and chat template included: `tiny_model FOLDER`.

use std::path::PathBuf;

use levain_testkit::model::ModelSpec;

const TEMPLATE: &str = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}\
    {% if add_generation_prompt %}<|assistant|>{% endif %}";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder: PathBuf = std::env::args_os().nth(1).ok_or("usage: tiny_model FOLDER")?.into();
    std::fs::create_dir_all(&folder)?;
    ModelSpec { max_position_embeddings: 2048, ..ModelSpec::llama() }.write(&folder)?;
    std::fs::write(folder.join("chat_template.jinja"), TEMPLATE)?;
    Ok(())
}
