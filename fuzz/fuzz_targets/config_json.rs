//! A `config.json` or `generation_config.json` gives an error or a description that holds together.
#![no_main]

use std::path::Path;

use levain_weights::{GenerationDefaults, ModelConfig};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let path = Path::new("config.json");
    if let Ok(config) = ModelConfig::from_json(path, data) {
        assert_eq!(config.num_attention_heads % config.num_key_value_heads, 0);
        assert!(config.rope.dim > 0 && config.rope.dim % 2 == 0 && config.rope.dim <= config.head_dim);
        assert!(config.rms_norm_eps > 0.0 && config.rope.scaling.attention_factor().is_finite());
        if let Some(moe) = config.moe {
            assert_eq!(moe.n_routed_experts % moe.n_group, 0);
        }
    }
    let _ = GenerationDefaults::from_json(path, data);
});
