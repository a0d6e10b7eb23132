//! What goes in comes out, within the format's error, and blocks move as bytes.

use super::*;
use crate::Pool;

const DTYPES: [KvDType; 3] = [KvDType::F32, KvDType::F16, KvDType::Q8_0];

fn layout(dtype: KvDType) -> KvLayout {
    KvLayout { dtype, n_layers: 2, n_kv_heads: 3, k_dim: 40, v_dim: 24, values_in_keys: false, block_len: 16 }
}

fn noise(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state as f32 / u32::MAX as f32 - 0.5) * 8.0
        })
        .collect()
}

fn tolerance(dtype: KvDType) -> f32 {
    match dtype {
        KvDType::F32 => 0.0,
        KvDType::F16 => 4.0 / 2048.0,
        // Half a step of the scale, and the clamp at 127 after the scale's own rounding.
        KvDType::Q8_0 => 4.0 / 127.0 * 0.55,
    }
}

#[test]
fn rows_read_back() {
    let pool = Pool::new(2);
    for dtype in DTYPES {
        for values_in_keys in [false, true] {
            let layout = KvLayout { values_in_keys, ..layout(dtype) };
            let mut cache = KvCache::new(layout, 4).unwrap();
            let slots = [0, 17, 63, 5, 31];
            let k = noise(slots.len() * 3 * 40, 1);
            let v = if values_in_keys { vec![] } else { noise(slots.len() * 3 * 24, 2) };
            cache.append(&pool, 1, &slots, &k, &v);
            let (mut key, mut value) = (vec![0.0; 40], vec![0.0; 24]);
            for (row, slot) in slots.iter().enumerate() {
                for head in 0..3 {
                    let at = row * 3 + head;
                    cache.read_key(1, head, *slot, &mut key);
                    cache.read_value(1, head, *slot, &mut value);
                    let wrote_v = if values_in_keys { &k[at * 40..][..24] } else { &v[at * 24..][..24] };
                    for (got, wrote) in key.iter().zip(&k[at * 40..]).chain(value.iter().zip(wrote_v)) {
                        assert!((got - wrote).abs() <= tolerance(dtype), "{dtype:?}: {got} for {wrote}");
                    }
                    cache.read_key(0, head, *slot, &mut key);
                    assert!(key.iter().all(|value| *value == 0.0 || dtype == KvDType::Q8_0));
                }
            }
        }
    }
}

#[test]
fn appending_in_parallel_writes_the_same_bytes() {
    for dtype in DTYPES {
        let layout = KvLayout { k_dim: 128, v_dim: 128, block_len: 32, ..layout(dtype) };
        let slots: Vec<u32> = (0..200).map(|i| (i * 7) % 256).collect();
        let (k, v) = (noise(200 * 3 * 128, 3), noise(200 * 3 * 128, 4));
        let mut whole = KvCache::new(layout, 8).unwrap();
        whole.append(&Pool::new(3), 0, &slots, &k, &v);
        let mut single = KvCache::new(layout, 8).unwrap();
        for (row, slot) in slots.iter().enumerate() {
            let range = row * 3 * 128..(row + 1) * 3 * 128;
            single.append(&Pool::new(1), 0, &[*slot], &k[range.clone()], &v[range]);
        }
        for block in 0..8 {
            assert!(whole.block(block) == single.block(block), "{dtype:?} block {block}");
        }
    }
}

#[test]
fn blocks_copy_and_travel_as_bytes() {
    let pool = Pool::new(1);
    for dtype in DTYPES {
        let mut cache = KvCache::new(layout(dtype), 3).unwrap();
        let (k, v) = (noise(16 * 3 * 40, 5), noise(16 * 3 * 24, 6));
        let slots: Vec<u32> = (16..32).collect();
        cache.append(&pool, 0, &slots, &k, &v);
        cache.copy_block(1, 2);
        assert_eq!(cache.block(1), cache.block(2));
        let mut other = KvCache::new(layout(dtype), 1).unwrap();
        other.write_block(0, cache.block(1));
        let (mut here, mut there) = ([0.0; 40], [0.0; 40]);
        cache.read_key(0, 2, 20, &mut here);
        other.read_key(0, 2, 4, &mut there);
        assert_eq!(here, there);
        assert_eq!(cache.bytes_per_block(), layout(dtype).bytes_per_block().unwrap());
    }
}

#[test]
fn extreme_values_neither_crash_nor_overflow() {
    let pool = Pool::new(1);
    for dtype in DTYPES {
        let layout = KvLayout { n_kv_heads: 1, k_dim: 32, v_dim: 32, ..layout(dtype) };
        let mut cache = KvCache::new(layout, 1).unwrap();
        for bad in [f32::NAN, f32::INFINITY, f32::MAX, f32::MIN_POSITIVE, -1e30, 1e-40] {
            let mut key = [0.0; 32];
            key[3] = bad;
            cache.append(&pool, 0, &[1], &key, &key);
            let mut back = [0.0; 32];
            cache.read_key(0, 0, 1, &mut back);
            if bad.is_nan() {
                assert!(back[3].is_nan(), "{dtype:?}");
            } else if bad.is_finite() {
                assert!(back.iter().all(|value| value.is_finite()), "{dtype:?} {bad}: {back:?}");
            }
        }
    }
}

#[test]
fn impossible_layouts_are_refused() {
    let good = layout(KvDType::F16);
    let bad = [
        KvLayout { block_len: 0, ..good },
        KvLayout { block_len: 24, ..good },
        KvLayout { block_len: 512, ..good },
        KvLayout { k_dim: 0, ..good },
        KvLayout { v_dim: 1 << 20, ..good },
        KvLayout { n_layers: 0, ..good },
        KvLayout { n_kv_heads: usize::MAX, ..good },
        KvLayout { values_in_keys: true, v_dim: 41, ..good },
    ];
    for layout in bad {
        assert!(KvCache::new(layout, 1).is_err(), "{layout:?}");
    }
    assert!(KvCache::new(good, usize::MAX).is_err());
    assert!(KvCache::new(good, u32::MAX as usize).is_err());
}

#[test]
fn true_sizes_are_what_the_formats_say() {
    let layout = |dtype, values_in_keys, k_dim, v_dim| KvLayout {
        dtype,
        n_layers: 1,
        n_kv_heads: 1,
        k_dim,
        v_dim,
        values_in_keys,
        block_len: 32,
    };
    let bytes = |layout: KvLayout| layout.bytes_per_block().unwrap();
    assert_eq!(bytes(layout(KvDType::F16, false, 128, 128)), 32 * 256 * 2);
    assert_eq!(bytes(layout(KvDType::Q8_0, false, 128, 128)), 32 * 256 / 32 * 34);
    assert_eq!(bytes(layout(KvDType::F16, true, 576, 512)), 32 * 576 * 2);
    assert_eq!(bytes(layout(KvDType::Q8_0, true, 576, 512)), 32 * 576 / 32 * 34);
}
