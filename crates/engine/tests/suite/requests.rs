//! What requests may ask for, how they end, and what is refused.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use levain_engine::{
    Constraint, Engine, EngineConfig, EngineError, Event, FinishReason, Injector, Pooling, Request,
    RequestKind, SamplingParams, Shutdown, Speculation, TokenMask,
};

use crate::common::{all_free, engine, eventually, fixture, ids, run, start, text};

fn llama() -> Engine {
    engine(&fixture("llama-3.1"), EngineConfig::default())
}

#[test]
fn stop_tokens_end_an_answer_and_are_not_reported() {
    let engine = llama();
    let (prompt, greedy) = (ids(&fixture("llama-3.1"), "prompt"), ids(&fixture("llama-3.1"), "greedy"));
    // 4, 206, 4, 486: stop at the first 486.
    let outcome = run(&engine, &prompt, |request| request.stop_token_ids = vec![486]);
    assert_eq!(outcome.answers[0].tokens, greedy[..3]);
    assert!(matches!(outcome.answers[0].reason, Some(FinishReason::Stop(Some(486)))));
    assert_eq!(outcome.answers[0].usage.completion_tokens, 4);
    let outcome = run(&engine, &prompt, |request| {
        request.stop_token_ids = vec![486];
        request.ignore_eos = true;
    });
    assert_eq!(outcome.answers[0].tokens, greedy);
}

#[test]
fn an_answer_ends_where_the_context_does() {
    let engine =
        engine(&fixture("llama-3.1"), EngineConfig { context_length: Some(50), ..EngineConfig::default() });
    let outcome = run(&engine, &text(1, 40), |request| request.max_tokens = None);
    assert_eq!(outcome.answers[0].tokens.len(), 10);
    assert!(matches!(outcome.answers[0].reason, Some(FinishReason::Length)));
}

#[test]
fn impossible_requests_are_refused_with_a_reason() {
    let engine = llama();
    let refused = |prompt: Vec<u32>, change: &dyn Fn(&mut Request)| {
        let mut request = Request::new(prompt, |_| panic!("a refused request has no events"));
        change(&mut request);
        engine.submit(request).map(drop).unwrap_err()
    };
    assert!(matches!(refused(vec![], &|_| {}), EngineError::EmptyPrompt));
    let long = refused(text(1, 512), &|_| {});
    assert!(matches!(long, EngineError::ContextTooLong { prompt: 512, context: 512 }), "{long}");
    assert!(matches!(
        refused(vec![512], &|_| {}),
        EngineError::TokenOutOfRange { token: 512, vocab_size: 512 }
    ));
    assert!(matches!(
        refused(vec![1], &|r| r.stop_token_ids = vec![9999]),
        EngineError::TokenOutOfRange { .. }
    ));
    for n in [0, 17, 1_000_000, u32::MAX] {
        assert!(matches!(refused(vec![1], &|r| r.n = n), EngineError::Parameter { name: "n", .. }));
    }
    assert!(matches!(
        refused(vec![1], &|r| r.logprobs = Some(129)),
        EngineError::Parameter { name: "logprobs", .. }
    ));
    assert!(matches!(
        refused(vec![1], &|r| r.sampling.temperature = f32::NAN),
        EngineError::Parameter { name: "temperature", .. }
    ));
    // What was refused leaves nothing behind, and the longest possible prompt is fine.
    let outcome = run(&engine, &text(1, 511), |_| {});
    assert_eq!(outcome.answers[0].tokens.len(), 1);
    eventually("all blocks are free", || all_free(&engine));
}

#[test]
fn a_prompt_can_be_scored_without_generating() {
    let engine = engine(
        &fixture("llama-3.1"),
        EngineConfig { prompt_chunk_tokens: Some(50), ..EngineConfig::default() },
    );
    for len in [1, 2, 50, 51, 512] {
        let prompt = text(4, len);
        let outcome = run(&engine, &prompt, |request| {
            request.max_tokens = Some(0);
            request.prompt_logprobs = Some(1);
        });
        assert_eq!(outcome.prompt.len(), len);
        assert!(outcome.prompt[1..].iter().all(|entry| entry.logprob.is_some_and(|logprob| logprob < 0.0)));
        assert!(outcome.answers[0].tokens.is_empty());
        assert!(matches!(outcome.answers[0].reason, Some(FinishReason::Length)));
    }
}

#[test]
fn embeddings_have_length_one_and_do_not_depend_on_chunks() {
    let vectors: Vec<_> = [None, Some(1), Some(13)]
        .into_iter()
        .map(|prompt_chunk_tokens| {
            let engine = engine(
                &fixture("llama-3.1"),
                EngineConfig { prompt_chunk_tokens, ..EngineConfig::default() },
            );
            [Pooling::Mean, Pooling::Last].map(|pooling| {
                // Twice, so that a cached prefix would show.
                let [a, b] = [0, 1].map(|_| {
                    run(&engine, &text(9, 100), |request| request.kind = RequestKind::Embed(pooling))
                        .embedding
                });
                assert_eq!(a, b);
                assert!((a.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
                a
            })
        })
        .collect();
    assert_eq!(vectors[0].len(), 2);
    assert_eq!(vectors[0][0].len(), 64);
    assert_ne!(vectors[0][0], vectors[0][1]);
    assert_eq!(vectors[0], vectors[1]);
    assert_eq!(vectors[0], vectors[2]);
}

/// Allows only the tokens of a list, in order, and then the end.
struct Script {
    tokens: Vec<u32>,
    at: usize,
}

impl Constraint for Script {
    fn allowed(&mut self, mask: &mut TokenMask) -> Result<(), String> {
        if let Some(&token) = self.tokens.get(self.at) {
            mask.allow(token);
        }
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        if self.tokens.get(self.at) != Some(&token) {
            return Err(format!("{token} was not asked for"));
        }
        self.at += 1;
        Ok(())
    }

    fn may_stop(&mut self) -> bool {
        self.at == self.tokens.len()
    }
}

#[test]
fn constraints_decide_what_comes_and_when_it_ends() {
    let engine = llama();
    for (temperature, stop) in [(0.0, vec![2]), (1.0, vec![2]), (0.0, vec![])] {
        let outcome = run(&engine, &text(1, 10), |request| {
            request.sampling = SamplingParams { temperature, seed: Some(1), ..SamplingParams::default() };
            request.stop_token_ids = stop.clone();
            request.constraints = vec![Box::new(Script { tokens: vec![7, 8, 9], at: 0 })];
        });
        let answer = &outcome.answers[0];
        assert_eq!(answer.tokens, [7, 8, 9]);
        assert!(matches!(answer.reason, Some(FinishReason::Stop(_))), "{:?}", answer.reason);
        // Log-probabilities are the model's own: the forced tokens are not certain.
        assert!(answer.logprobs.iter().all(|(logprob, _)| logprob.unwrap() < -1e-3));
    }
}

/// Allows nothing but the end; when that is chosen, a word first.
struct LastWord {
    word: u32,
    asked: bool,
    said: bool,
}

impl Constraint for LastWord {
    fn allowed(&mut self, mask: &mut TokenMask) -> Result<(), String> {
        if self.asked && !self.said {
            mask.allow(self.word);
        }
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        self.said = token == self.word;
        Ok(())
    }

    fn may_stop(&mut self) -> bool {
        !self.asked || self.said
    }

    fn ends(&mut self) -> bool {
        std::mem::replace(&mut self.asked, true)
    }
}

#[test]
fn an_end_may_be_put_off() {
    let engine = llama();
    for (temperature, n) in [(0.0, 1), (1.0, 1), (1.0, 3)] {
        let outcome = run(&engine, &text(1, 10), |request| {
            request.sampling = SamplingParams { temperature, seed: Some(1), ..SamplingParams::default() };
            request.stop_token_ids = vec![2];
            request.n = n;
            request.logprobs = None;
            request.constraints = (0..n)
                .map(|i| Box::new(LastWord { word: 7 + i, asked: false, said: false }) as Box<dyn Constraint>)
                .collect();
        });
        for (answer, word) in outcome.answers.iter().zip(7..) {
            assert_eq!(answer.tokens, [word]);
            assert!(matches!(answer.reason, Some(FinishReason::Stop(Some(2)))), "{:?}", answer.reason);
        }
    }
}

/// Fails in one of several ways at its second token.
struct Faulty(u32, u32);

impl Constraint for Faulty {
    fn allowed(&mut self, mask: &mut TokenMask) -> Result<(), String> {
        match (self.1, self.0) {
            (1.., 0) => return Err("the grammar has no way on".to_owned()),
            (1.., 1) => panic!("a bug in a constraint"),
            (1.., 2) => mask.forbid_all(),
            _ => mask.allow_all(),
        }
        self.1 += 1;
        Ok(())
    }

    fn accept(&mut self, _: u32) -> Result<(), String> {
        Ok(())
    }

    fn may_stop(&mut self) -> bool {
        false
    }
}

#[test]
fn a_failing_constraint_ends_its_own_answer_only() {
    let engine = llama();
    let healthy = start(&engine, &text(2, 30), |request| request.max_tokens = Some(60));
    for (way, message) in [(0, "no way on"), (1, "a bug in a constraint"), (2, "no token is allowed")] {
        let outcome = run(&engine, &text(1, 10), |request| {
            request.n = 2;
            request.sampling = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
            request.constraints =
                vec![Box::new(Faulty(way, 0)), Box::new(Script { tokens: vec![7, 8], at: 0 })];
        });
        assert_eq!(outcome.answers[0].tokens.len(), 1);
        assert!(outcome.answers[0].error().contains(message), "{}", outcome.answers[0].error());
        // What a constraint rules out is its author's affair, a panic is ours.
        let reason = outcome.answers[0].reason.as_ref();
        let is_authors = matches!(reason, Some(FinishReason::Error(EngineError::Constraint { .. })));
        assert_eq!(is_authors, way != 1, "{reason:?}");
        assert_eq!(outcome.answers[1].tokens, [7, 8]);
    }
    assert_eq!(healthy.wait().answers[0].tokens.len(), 60);
    eventually("all blocks are free", || all_free(&engine));
}

#[test]
fn injected_tokens_come_next() {
    let engine = llama();
    let injector = Injector::new();
    let (sender, events) = channel();
    let inside = injector.clone();
    let mut request = Request::new(text(1, 10), move |event| {
        if let Event::Token { index: 4, .. } = event {
            inside.push(0, &[100, 101, 102]);
        }
        sender.send(event).unwrap();
        ControlFlow::Continue(())
    });
    request.max_tokens = Some(10);
    request.injector = Some(injector);
    let _handle = engine.submit(request).unwrap();
    let tokens: Vec<u32> = events
        .iter()
        .take(10)
        .map(|event| if let Event::Token { id, .. } = event { id } else { panic!("{event:?}") })
        .collect();
    assert_eq!(tokens[5..8], [100, 101, 102]);
    let plain = run(&engine, &text(1, 10), |_| {});
    assert_eq!(tokens[..5], plain.answers[0].tokens[..5]);
}

#[test]
fn a_thousand_cancelled_requests_leave_nothing_behind() {
    let config = EngineConfig { max_queued_requests: 2000, ..EngineConfig::default() };
    let engine = engine(&fixture("llama-3.1"), config);
    let finished = Arc::new(AtomicU32::new(0));
    let mut handles = Vec::new();
    for i in 0..1000_u32 {
        let finished = Arc::clone(&finished);
        let mut request = Request::new(text(i, 10 + i as usize % 200), move |event| {
            if let Event::Finished { reason, .. } = event {
                assert!(matches!(reason, FinishReason::Cancelled), "{reason:?}");
                finished.fetch_add(1, Ordering::SeqCst);
            }
            // Some break off on their own.
            if i % 5 == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        request.n = 1 + i % 3;
        request.tenant = u64::from(i % 7);
        request.sampling.temperature = 1.0;
        handles.push(engine.submit(request).unwrap());
        if i % 4 == 3 {
            handles.remove(handles.len() / 2);
        }
        if i % 100 == 99 {
            handles.iter().for_each(|handle| handle.cancel());
            handles.clear();
        }
    }
    let answers: u32 = (0..1000).map(|i| 1 + i % 3).sum();
    eventually("all answers end", || finished.load(Ordering::SeqCst) == answers);
    eventually("all blocks are free", || all_free(&engine));
    // And the engine still works.
    assert_eq!(run(&engine, &text(1, 10), |_| {}).answers[0].tokens.len(), 24);
}

/// Keeps the engine's thread in a sink until the test lets it go.
fn hold(engine: &Engine) -> (std::sync::mpsc::Sender<()>, levain_engine::RequestHandle) {
    let (release, gate) = channel::<()>();
    let (entered, inside) = channel();
    let gate = Mutex::new(gate);
    let request = Request::new(vec![1], move |_| {
        let _ = entered.send(());
        let _ = gate.lock().unwrap().recv();
        ControlFlow::Break(())
    });
    let handle = engine.submit(request).unwrap();
    inside.recv().unwrap();
    (release, handle)
}

#[test]
fn more_than_may_wait_is_refused_as_overloaded() {
    let config = EngineConfig { max_queued_requests: 3, ..EngineConfig::default() };
    let engine = engine(&fixture("llama-3.1"), config);
    let (release, _handle) = hold(&engine);
    let waiting: Vec<_> = (0..3).map(|i| start(&engine, &text(i, 20), |_| {})).collect();
    let refused = engine.submit(Request::new(vec![1], |_| ControlFlow::Continue(())));
    assert!(matches!(refused, Err(EngineError::Overloaded { queued: 3, limit: 3 })));
    assert_eq!(engine.stats().waiting, 3);
    drop(release);
    for running in waiting {
        assert_eq!(running.wait().answers[0].tokens.len(), 24);
    }
}

#[test]
fn cancelling_frees_the_slot_of_a_waiting_and_of_a_running_request() {
    let config = EngineConfig { max_num_seqs: 1, ..EngineConfig::default() };
    let engine = engine(&fixture("llama-3.1"), config);
    let mut first = start(&engine, &text(1, 10), |request| request.max_tokens = Some(500));
    first.wait_for_token();
    let second = start(&engine, &text(2, 10), |_| {});
    second.handle.cancel();
    let second = second.wait();
    assert!(matches!(second.answers[0].reason, Some(FinishReason::Cancelled)));
    assert!(second.answers[0].tokens.is_empty());
    first.handle.cancel();
    let first = first.wait();
    assert!(matches!(first.answers[0].reason, Some(FinishReason::Cancelled)));
    eventually("the slot is free", || all_free(&engine));
}

#[test]
fn a_panicking_sink_ends_its_request_only() {
    let engine = llama();
    let healthy = start(&engine, &text(2, 30), |request| request.max_tokens = Some(60));
    let _handle = engine.submit(Request::new(text(1, 10), |_| panic!("a bug in a sink"))).unwrap();
    assert_eq!(healthy.wait().answers[0].tokens.len(), 60);
    eventually("its blocks are free", || all_free(&engine));
}

#[test]
fn draining_finishes_what_was_submitted_and_cancelling_does_not() {
    for (how, full) in [(Shutdown::Drain, true), (Shutdown::Cancel, false)] {
        let engine = llama();
        let running: Vec<_> =
            (0..5).map(|i| start(&engine, &text(i, 200), |request| request.max_tokens = Some(300))).collect();
        engine.shutdown(how);
        assert!(matches!(
            engine.submit(Request::new(vec![1], |_| ControlFlow::Continue(()))),
            Err(EngineError::ShutDown)
        ));
        for running in running {
            let answer = running.wait().answers.remove(0);
            assert_eq!(matches!(answer.reason, Some(FinishReason::Length)), full, "{:?}", answer.reason);
            assert_eq!(answer.tokens.len() == 300, full);
        }
    }
}

#[test]
fn the_last_handle_may_be_dropped_from_a_sink() {
    let engine = llama();
    let held = Arc::new(Mutex::new(None));
    let inside = Arc::clone(&held);
    let (done, ended) = channel();
    let request = Request::new(vec![1, 2, 3], move |event| {
        match event {
            Event::Token { index: 3, .. } => drop(inside.lock().unwrap().take()),
            Event::Finished { .. } => done.send(()).unwrap(),
            _ => {}
        }
        ControlFlow::Continue(())
    });
    let handle = engine.submit(request).unwrap();
    *held.lock().unwrap() = Some(engine);
    ended.recv_timeout(Duration::from_secs(20)).expect("the request ends when the engine goes");
    drop(handle);
}

#[test]
fn tenants_do_not_share_prefixes() {
    let engine = llama();
    let prompt = text(5, 100);
    let cached =
        |tenant| run(&engine, &prompt, |request| request.tenant = tenant).answers[0].usage.cached_tokens;
    assert_eq!(cached(1), 0);
    assert_eq!(cached(1), 96);
    assert_eq!(cached(2), 0);
    assert_eq!(cached(2), 96);
}

/// Takes as long to say what may come next as nobody lets it go on.
struct Stuck(std::sync::mpsc::Receiver<()>);

impl Constraint for Stuck {
    fn allowed(&mut self, mask: &mut TokenMask) -> Result<(), String> {
        let _ = self.0.recv();
        mask.allow(7);
        mask.allow(9);
        Ok(())
    }

    fn accept(&mut self, _token: u32) -> Result<(), String> {
        Ok(())
    }

    fn may_stop(&mut self) -> bool {
        false
    }
}

#[test]
fn a_constraint_that_takes_its_time_holds_up_its_own_answer_only() {
    for speculation in [Speculation::Off, Speculation::PromptLookup] {
        let config = EngineConfig { speculation, ..EngineConfig::default() };
        let engine = engine(&fixture("llama-3.1"), config);
        let constrain = |request: &mut Request, go_on| {
            request.max_tokens = Some(40);
            request.tenant = 1;
            request.constraints = vec![Box::new(Stuck(go_on))];
        };
        let quick = run(&engine, &text(3, 33), |request| constrain(request, channel().1));
        let (tells, go_on) = channel();
        let stuck = start(&engine, &text(3, 33), |request| constrain(request, go_on));
        // Whole answers go by, also constrained ones of others, while it waits for its first token and later ones.
        for _ in 0..3 {
            let other = run(&engine, &text(2, 30), |request| {
                request.tenant = 2;
                request.constraints = vec![Box::new(Stuck(channel().1))];
            });
            assert_eq!(other.answers[0].tokens.len(), 24);
            tells.send(()).unwrap();
        }
        drop(tells);
        let stuck = stuck.wait();
        assert_eq!(stuck.answers[0].tokens.len(), 40);
        assert_eq!(stuck.answers[0].bits(), quick.answers[0].bits());
        eventually("all blocks are free", || all_free(&engine));
    }
}

#[test]
fn a_tenant_can_take_its_share_of_requests_and_no_more() {
    let config = EngineConfig { max_answers_per_tenant: Some(2), ..EngineConfig::default() };
    let engine = engine(&fixture("llama-3.1"), config);
    let (release, _handle) = hold(&engine);
    let of = |tenant| {
        let mut request = Request::new(vec![1], |_| ControlFlow::Continue(()));
        request.tenant = tenant;
        engine.submit(request)
    };
    let handles = [of(5).unwrap(), of(5).unwrap(), of(6).unwrap()];
    assert!(matches!(of(5), Err(EngineError::Overloaded { queued: 2, limit: 2 })));
    drop(release);
    drop(handles);
    eventually("its places are free again", || of(5).is_ok());
}
