use super::*;
use crate::matmul::tests::{Random, isas, shapes, weights};

#[test]
fn every_instruction_set_packs_the_same_bytes() {
    let mut random = Random(51);
    for dtype in DType::ALL {
        let more = if dtype.is_float() { (16, 256) } else { (16, 11 * dtype.block_len()) };
        for (rows, cols) in shapes(dtype).into_iter().chain([more]) {
            let stored = weights(dtype, rows, cols, &mut random, dtype != DType::F8E4M3);
            let layout = Layout::new(dtype, cols).unwrap();
            let format = RowFormat { dtype, cols, row_bytes: stored.len() / rows, layout };
            for index in 0..rows.div_ceil(LANES) {
                let pack = |isa| {
                    let mut panel = vec![0; layout.stride];
                    format.pack_panel_on(isa, &stored, index, &mut panel).unwrap();
                    panel
                };
                let expected = pack(Isa::Scalar);
                for isa in isas() {
                    assert!(pack(isa) == expected, "{dtype} {rows} x {cols} on {isa}, panel {index}");
                }
            }
        }
    }
}

/// Where several rows are damaged the first is named, in whatever order they are looked at.
#[test]
fn the_first_damaged_row_is_named() {
    let (dtype, cols) = (DType::Q4_K, 1024);
    let row_bytes = dtype.row_bytes(cols).unwrap();
    let mut stored = weights(dtype, 16, cols, &mut Random(52), false);
    for (row, block) in [(9, 0), (3, 3), (5, 1)] {
        stored[row * row_bytes + block * dtype.block_bytes() + 1] |= 0x7c;
    }
    let layout = Layout::new(dtype, cols).unwrap();
    let format = RowFormat { dtype, cols, row_bytes, layout };
    assert_eq!(format.pack_panel(&stored, 0, &mut vec![0; layout.stride]), Err(3));
}
