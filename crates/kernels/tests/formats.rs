//! Block formats against vectors made with the Python package `gguf`, which mirrors ggml.
//!
//! Each fixture is a run of records: ggml type, byte count, value count (little-endian u32), bytes, f32 values.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use levain_kernels::{DType, dequantize_row, quantize_row};

struct Record<'a> {
    dtype: DType,
    bytes: &'a [u8],
    values: Vec<f32>,
}

fn records(mut file: &[u8]) -> Vec<Record<'_>> {
    let mut records = Vec::new();
    while !file.is_empty() {
        let word = |i: usize| u32::from_le_bytes(file[4 * i..4 * i + 4].try_into().unwrap());
        let (id, len, values) = (word(0), word(1) as usize, word(2) as usize);
        let (bytes, rest) = file[12..].split_at(len);
        let (floats, rest) = rest.split_at(4 * values);
        let values = floats.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        records.push(Record { dtype: DType::from_ggml(id).unwrap(), bytes, values });
        file = rest;
    }
    records
}

#[test]
fn dequantising_equals_ggml_bit_for_bit() {
    let mut records = records(include_bytes!("fixtures/dequantize.bin"));
    assert_eq!(records.len(), 14);
    // Of these: random blocks, and blocks whose bits are all zeros, all ones or neither.
    records.extend(self::records(include_bytes!("fixtures/dequantize_tables.bin")));
    assert_eq!(records.len(), 14 + 9);
    for record in records {
        let mut out = vec![f32::NAN; record.values.len()];
        dequantize_row(record.dtype, record.bytes, &mut out).unwrap();
        for (i, (ours, theirs)) in out.iter().zip(&record.values).enumerate() {
            // Python computes 0 * -1 as -0 in places; the sign of zero is of no consequence.
            let same = ours.to_bits() == theirs.to_bits()
                || (*ours == 0.0 && *theirs == 0.0)
                || (ours.is_nan() && theirs.is_nan());
            assert!(same, "{} value {i}: {ours} against {theirs}", record.dtype);
        }
    }
}

#[test]
fn quantising_equals_ggml_bit_for_bit() {
    let records = records(include_bytes!("fixtures/quantize.bin"));
    assert_eq!(records.len(), 7);
    for record in records {
        let mut out = vec![0; record.bytes.len()];
        quantize_row(record.dtype, &record.values, &mut out).unwrap();
        let differing = out.iter().zip(record.bytes).position(|(a, b)| a != b);
        assert_eq!(differing, None, "{}: first differing byte", record.dtype);
    }
}

/// Root of the mean squared error of a round trip over normally distributed values, relative to their own.
fn round_trip_error(dtype: DType) -> f64 {
    let mut state = 1_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / (1_u64 << 24) as f64
    };
    let values: Vec<f32> =
        (0..256 * 64).map(|_| ((0..12).map(|_| uniform()).sum::<f64>() - 6.0) as f32).collect();
    let mut bytes = vec![0; dtype.row_bytes(values.len()).unwrap()];
    quantize_row(dtype, &values, &mut bytes).unwrap();
    let mut back = vec![0.0; values.len()];
    dequantize_row(dtype, &bytes, &mut back).unwrap();
    let error: f64 = values.iter().zip(&back).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let power: f64 = values.iter().map(|a| f64::from(*a).powi(2)).sum();
    (error / power).sqrt()
}

#[test]
fn quantising_loses_no_more_than_the_bits_allow() {
    let limits = [
        (DType::F32, 0.0),
        (DType::F16, 3e-4),
        (DType::BF16, 2.5e-3),
        (DType::Q8_0, 6e-3),
        (DType::Q8_K, 9e-3),
        (DType::Q6_K, 2.2e-2),
        (DType::Q5_K, 4.2e-2),
        (DType::Q5_0, 5e-2),
        (DType::Q5_1, 4.5e-2),
        (DType::Q4_K, 8e-2),
        (DType::Q4_0, 1e-1),
        (DType::Q4_1, 9e-2),
        (DType::IQ4_NL, 9e-2),
        (DType::Q3_K, 1.7e-1),
        (DType::Q2_K, 3.2e-1),
    ];
    for (dtype, limit) in limits {
        let error = round_trip_error(dtype);
        assert!(error <= limit, "{dtype}: {error}");
        assert!(error >= limit * 0.5, "{dtype}: {error} is too good for its limit");
    }
}

#[test]
fn bad_sizes_are_errors() {
    assert!(dequantize_row(DType::Q4_K, &[0; 144], &mut [0.0; 255]).is_err());
    assert!(dequantize_row(DType::Q4_K, &[0; 143], &mut [0.0; 256]).is_err());
    assert!(quantize_row(DType::Q4_0, &[0.0; 33], &mut [0; 18]).is_err());
    assert!(quantize_row(DType::Q4_0, &[0.0; 32], &mut [0; 17]).is_err());
    assert!(quantize_row(DType::IQ2_XXS, &[0.0; 256], &mut [0; 66]).is_err(), "it can only be read");
    assert!(quantize_row(DType::F8E4M3, &[0.0; 32], &mut [0; 32]).is_ok());
}
