use super::*;

const LARGE: usize = 8 << 20;

fn learner() -> Learner {
    Learner::new(Prefetch::CANDIDATES[2], LEAST_BYTES)
}

/// Steps in which `matrices` of a format are read, each in a time that the test makes up from the candidate, the matrix
/// and the step, until a choice is made; gives the steps that it took.
fn learn(
    learner: &mut Learner,
    dtype: DType,
    matrices: usize,
    seconds: impl Fn(Prefetch, usize, usize) -> f64,
) -> usize {
    for step in 0..1000 {
        learner.begin_step();
        if learner.formats[place(dtype)].chosen.is_some() {
            return step;
        }
        for matrix in 0..matrices {
            let timed = learner.next(dtype, LARGE).unwrap();
            learner.note(timed, seconds(learner.candidates[timed.candidate], matrix, step));
        }
    }
    panic!("nothing was learnt");
}

fn chosen(learner: &Learner, dtype: DType) -> PrefetchChoice {
    learner.choices().find(|choice| choice.dtype == dtype).unwrap()
}

#[test]
fn the_fastest_is_taken_and_its_speed_told() {
    for fastest in Prefetch::CANDIDATES {
        let mut learner = learner();
        let time = |prefetch, _, _| if prefetch == fastest { 1e-3 } else { 2e-3 };
        assert_eq!(learn(&mut learner, DType::Q4_K, 57, time), 10);
        let choice = chosen(&learner, DType::Q4_K);
        assert_eq!((choice.prefetch, choice.first), (fastest, Prefetch::CANDIDATES[2]));
        assert!((choice.gb_per_s - LARGE as f64 / 1e6).abs() < 0.1, "{choice:?}");
        assert_eq!(learner.choices().count(), 1, "one format says nothing about another");
        assert!(learner.next(DType::Q4_K, LARGE).is_none(), "nothing is timed any more");
    }
}

#[test]
fn less_than_a_twentieth_is_no_reason_to_change() {
    for (faster, changes) in [(1.0, false), (1.049, false), (1.051, true), (1.2, true)] {
        let mut learner = learner();
        let time = |prefetch, _, _| if prefetch == Prefetch::CANDIDATES[4] { 1e-3 / faster } else { 1e-3 };
        learn(&mut learner, DType::Q8_0, 3, time);
        let changed = chosen(&learner, DType::Q8_0).prefetch == Prefetch::CANDIDATES[4];
        assert_eq!(changed, changes, "{faster}");
    }
}

/// Neighbours only ever make a time longer. Three quarters of all times are disturbed, those of the fastest most.
#[test]
fn what_disturbs_most_samples_does_not_decide() {
    let fastest = Prefetch::CANDIDATES[3];
    let mut learner = learner();
    learn(&mut learner, DType::Q6_K, 40, |prefetch, matrix, step| {
        let alone = if prefetch == fastest { 1.0e-3 } else { 1.2e-3 };
        let disturbed = (matrix * 7 + step * 3) % 4 != 0;
        if disturbed { alone * if prefetch == fastest { 9.0 } else { 2.0 } } else { alone }
    });
    assert_eq!(chosen(&learner, DType::Q6_K).prefetch, fastest);
}

/// A machine that gets faster or slower meanwhile, and matrices of very different shapes, favour nobody.
#[test]
fn moods_of_the_machine_and_shapes_favour_no_candidate() {
    for matrices in [1, 2, 3, 5, 10, 13, 25, 55, 56] {
        let mut learner = learner();
        let steps = learn(&mut learner, DType::Q5_K, matrices, |_, matrix, step| {
            1e-3 * if matrix % 5 == 0 { 1.0 } else { 3.0 } * if step / 5 % 2 == 0 { 1.0 } else { 2.0 }
        });
        assert!(steps % 5 == 0 && steps >= 10, "{steps}");
        let counts = learner.formats[place(DType::Q5_K)].candidates.map(|candidate| candidate.seen);
        assert_eq!(counts[..5], [counts[0]; 5], "{matrices} matrices");
        assert!(counts[0] >= SAMPLES_MIN);
        assert_eq!(chosen(&learner, DType::Q5_K).prefetch, Prefetch::CANDIDATES[2], "{matrices} matrices");
    }
}

#[test]
fn a_single_matrix_takes_more_steps() {
    let mut learner = learner();
    assert_eq!(learn(&mut learner, DType::Q4_1, 1, |_, _, _| 1e-3), 40);
}

#[test]
fn a_guess_that_is_no_candidate_is_tried_as_well() {
    let own = Prefetch::parse("t0:2048:3").unwrap();
    for (time_of_own, expected) in [(1.0e-3, own), (3.0e-3, Prefetch::CANDIDATES[0])] {
        let mut learner = Learner::new(own, LEAST_BYTES);
        assert_eq!(learner.count, 6);
        let time = |prefetch, _, _| match prefetch {
            prefetch if prefetch == own => time_of_own,
            prefetch if prefetch == Prefetch::CANDIDATES[0] => 1.5e-3,
            _ => 2e-3,
        };
        assert_eq!(learn(&mut learner, DType::BF16, 20, time), 12);
        assert_eq!(chosen(&learner, DType::BF16).prefetch, expected);
    }
}

#[test]
fn small_matrices_are_not_timed_and_take_the_choice_of_their_format() {
    let mut learner = learner();
    assert_eq!(learner.next(DType::Q8_0, LEAST_BYTES - 1), None);
    assert!(learner.next(DType::Q8_0, LEAST_BYTES).is_some());
    learner.begin_step();
    learn(
        &mut learner,
        DType::Q8_0,
        9,
        |prefetch, _, _| if prefetch == Prefetch::CANDIDATES[1] { 1e-3 } else { 2e-3 },
    );
    let chooser = Chooser { first: Prefetch::CANDIDATES[2], learner: Some(Box::new(learner)) };
    assert_eq!(chooser.of(DType::Q8_0, None), Prefetch::CANDIDATES[1]);
    assert_eq!(chooser.of(DType::Q4_0, None), Prefetch::CANDIDATES[2]);
}

/// With one candidate, as where the environment fixes it, nothing changes, but its speed is known.
#[test]
fn what_is_fixed_is_timed_and_kept() {
    let mut learner = learner();
    learner.count = 1;
    assert_eq!(learn(&mut learner, DType::F16, 4, |_, _, _| 2e-3), 2);
    let choice = chosen(&learner, DType::F16);
    assert_eq!((choice.prefetch, choice.first), (Prefetch::CANDIDATES[2], Prefetch::CANDIDATES[2]));
    assert!((choice.gb_per_s - LARGE as f64 / 2e6).abs() < 0.1, "{choice:?}");
}

#[test]
fn the_shortest_times_are_kept_in_order() {
    let mut shortest = Shortest::NONE;
    for time in (0..100).map(|i| (i * 37 % 100) as f32) {
        shortest.push(time);
    }
    assert_eq!(shortest.times.to_vec(), (0..16).map(|i| i as f32).collect::<Vec<_>>());
    assert!((shortest.best_quarter() - 7.5).abs() < 1e-6);
}

#[test]
fn formats_have_places_of_their_own() {
    for (index, dtype) in DType::ALL.into_iter().enumerate() {
        assert_eq!(place(dtype), index);
    }
}
