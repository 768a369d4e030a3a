//! The imports of module `lockstep`, against sessions without a model behind them.
use crate::support::{CANISTER, Canister, module, number, text};
use ic_principal::Principal;
use lockstep_canister::{
    engine::EntryPoint,
    lockstep_api::SESSIONS_PER_CANISTER_MAX,
    session::{Ended, GenerationRequest, ModelDigest, Progress, SessionState},
};
use std::sync::Arc;

const MODULE: &str = r#"
(import "ic0" "msg_arg_data_copy" (func $argument (param i32 i32 i32)))
(import "lockstep" "model_open" (func $open (param i32 i32) (result i64)))
(import "lockstep" "session_start" (func $start (param i64 i32 i32 i64 i32) (result i64)))
(import "lockstep" "session_advance" (func $advance (param i64 i32) (result i32)))
(import "lockstep" "session_close" (func $close (param i64) (result i32)))
(import "lockstep" "session_status" (func $status (param i64) (result i32)))
(import "lockstep" "session_tokens" (func $tokens (param i64) (result i32)))
(import "lockstep" "session_text_size" (func $text_size (param i64) (result i32)))
(import "lockstep" "session_text_copy" (func $text_copy (param i64 i32 i32 i32)))
(import "lockstep" "session_digest_copy" (func $digest_copy (param i64 i32)))
(import "lockstep" "session_error_size" (func $error_size (param i64) (result i32)))
(import "lockstep" "session_error_copy" (func $error_copy (param i64 i32 i32 i32)))
    (data (i32.const 16) "betagamma\ff")
    (func $id (result i64) (call $argument (i32.const 0) (i32.const 0) (i32.const 8)) (i64.load (i32.const 0)))
    (func (export "canister_update open") (call $answer (call $open (i32.const 16) (i32.const 4))))
    (func (export "canister_update open_unknown") (call $answer (call $open (i32.const 20) (i32.const 5))))
    (func (export "canister_update start")
        (call $answer (call $start (i64.const 1) (i32.const 16) (i32.const 9) (i64.const -1) (i32.const 700))))
    (func (export "canister_update start_and_fail")
        (drop (call $start (i64.const 1) (i32.const 16) (i32.const 9) (i64.const 7) (i32.const 700))) unreachable)
    (func (export "canister_update start_two")
        (drop (call $start (i64.const 0) (i32.const 16) (i32.const 4) (i64.const 0) (i32.const 0)))
        (call $answer (call $start (i64.const 0) (i32.const 16) (i32.const 4) (i64.const 0) (i32.const 0))))
    (func (export "canister_update start_not_text")
        (drop (call $start (i64.const 1) (i32.const 16) (i32.const 10) (i64.const 7) (i32.const 0))))
    (func (export "canister_update start_no_model")
        (drop (call $start (i64.const 2) (i32.const 16) (i32.const 9) (i64.const 7) (i32.const 0))))
    (func (export "canister_update start_too_long")
        (drop (call $start (i64.const 0) (i32.const 0) (i32.const 65537) (i64.const 7) (i32.const 0))))
    (func (export "canister_update advance") (call $answer (i64.extend_i32_s (call $advance (call $id) (i32.const 5)))))
    (func (export "canister_update advance_back") (drop (call $advance (i64.const 0) (i32.const -1))))
    (func (export "canister_update close") (call $answer (i64.extend_i32_s (call $close (call $id)))))
    (func (export "canister_update status") (call $answer (i64.extend_i32_s (call $status (call $id)))))
    (func (export "canister_update tokens") (call $answer (i64.extend_i32_s (call $tokens (call $id)))))
    (func (export "canister_update error_size") (call $answer (i64.extend_i32_s (call $error_size (call $id)))))
    (func (export "canister_update text")
        (call $text_copy (call $id) (i32.const 64) (i32.const 1) (i32.sub (call $text_size (call $id)) (i32.const 1)))
        (call $append (i32.const 64) (i32.sub (call $text_size (call $id)) (i32.const 1))) (call $reply))
    (func (export "canister_update digest") (call $digest_copy (call $id) (i32.const 64)) (call $append (i32.const 64) (i32.const 32)) (call $reply))
    (func (export "canister_update error")
        (call $error_copy (call $id) (i32.const 64) (i32.const 0) (call $error_size (call $id)))
        (call $append (i32.const 64) (call $error_size (call $id))) (call $reply))
"#;

fn canister() -> Canister {
    let mut canister = Canister::new(&module(MODULE));
    canister.sessions.models = [
        ("alpha".into(), ModelDigest([1; 32])),
        ("beta".into(), ModelDigest([2; 32])),
    ]
    .into();
    canister.sessions.next_id = 40;
    canister
}

impl Canister {
    fn ask(&mut self, method: &str, session: u64) -> i64 {
        number(&self.update(method, &session.to_le_bytes()))
    }

    fn progress(&mut self, session: u64, change: impl FnOnce(&mut Progress)) {
        let session = self.sessions.sessions.get_mut(&session).expect("open");
        change(&mut Arc::make_mut(session).progress);
    }
}

#[test]
fn models_are_numbered_by_name() {
    let mut canister = canister();
    assert_eq!(number(&canister.update("open", b"")), 1);
    assert_eq!(number(&canister.update("open_unknown", b"")), -1);
}

#[test]
fn a_session_from_start_to_close() {
    let mut canister = canister();
    assert_eq!(number(&canister.update("start", b"")), 40);
    let expected = SessionState {
        owner: Principal::from_slice(&CANISTER),
        model: ModelDigest([2; 32]),
        request: GenerationRequest {
            prompt: "betagamma".into(),
            seed: u64::MAX,
            temperature_milli: 700,
        },
        permitted_tokens: 0,
        progress: Progress::default(),
    };
    assert_eq!(*canister.sessions.sessions[&40], expected);
    assert_eq!(canister.sessions.next_id, 41);
    assert_eq!(canister.ask("status", 40), 1);
    assert_eq!(canister.ask("advance", 40), 0);
    assert_eq!(canister.sessions.sessions[&40].permitted_tokens, 5);
    assert_eq!(canister.ask("status", 40), 0);
    canister.progress(40, |progress| {
        progress.tokens = vec![3, 1, 4, 1, 5];
        progress.text = b"a reply".to_vec();
        progress.chain = [8; 32];
    });
    assert_eq!(canister.ask("status", 40), 1);
    assert_eq!(canister.ask("tokens", 40), 5);
    assert_eq!(canister.ask("error_size", 40), -1);
    assert_eq!(canister.update("text", &40_u64.to_le_bytes()), b" reply");
    assert_eq!(canister.update("digest", &40_u64.to_le_bytes()), [8; 32]);
    canister.progress(40, |progress| progress.ended = Some(Ended::EndOfText));
    assert_eq!(canister.ask("status", 40), 2);
    canister.progress(40, |progress| {
        progress.ended = Some(Ended::Failed("no reason".into()))
    });
    assert_eq!(canister.ask("status", 40), 3);
    assert_eq!(
        canister.update("error", &40_u64.to_le_bytes()),
        b"no reason"
    );
    assert_eq!(canister.ask("close", 40), 0);
    assert_eq!(canister.ask("close", 40), -1);
    assert!(canister.sessions.sessions.is_empty());
    assert_eq!(canister.sessions.next_id, 41, "ids are not used again");
}

#[test]
fn sessions_of_others_are_unknown() {
    let mut canister = canister();
    canister.update("start", b"");
    let other = canister.sessions.sessions.get_mut(&40).expect("open");
    Arc::make_mut(other).owner = Principal::anonymous();
    for method in ["status", "tokens", "advance", "close", "error_size"] {
        assert_eq!(canister.ask(method, 40), -1, "{method}");
        assert_eq!(canister.ask(method, u64::MAX), -1, "{method}");
    }
    let error = canister
        .execute(EntryPoint::Update("digest".into()), &40_u64.to_le_bytes())
        .result
        .expect_err("unknown");
    assert_eq!(
        text(&error),
        "Canister violated contract: lockstep.session_digest_copy: unknown session: 40"
    );
}

#[test]
fn a_trap_starts_nothing_and_two_starts_get_two_ids() {
    let mut canister = canister();
    let before = canister.sessions.digest();
    canister.failure("start_and_fail");
    assert_eq!(canister.sessions.digest(), before);
    assert_eq!(number(&canister.update("start_two", b"")), 41);
    assert_eq!(
        canister
            .sessions
            .sessions
            .keys()
            .copied()
            .collect::<Vec<_>>(),
        [40, 41]
    );
    assert_ne!(canister.sessions.digest(), before);
}

#[test]
fn bad_arguments_trap() {
    let mut canister = canister();
    for (method, reason) in [
        ("start_not_text", "session_start: the prompt is not UTF-8"),
        ("start_no_model", "session_start: unknown model handle: 2"),
        (
            "start_too_long",
            "session_start: the prompt is 65537 bytes, more than 65536",
        ),
        (
            "advance_back",
            "session_advance: negative number of tokens: -1",
        ),
    ] {
        let error = canister.failure(method);
        assert_eq!(
            (error.code, text(&error)),
            (
                504,
                format!("Canister violated contract: lockstep.{reason}").as_str()
            )
        );
    }
}

#[test]
fn a_canister_has_so_many_sessions_and_no_more() {
    let mut canister = canister();
    for _ in 0..SESSIONS_PER_CANISTER_MAX {
        canister.update("start", b"");
    }
    assert_eq!(
        text(&canister.failure("start")),
        "Canister violated contract: lockstep.session_start: the canister already has 64 sessions"
    );
    canister.ask("close", 50);
    assert_eq!(number(&canister.update("start", b"")), 104);
}

#[test]
fn the_digest_covers_every_field() {
    let mut canister = canister();
    canister.update("start", b"");
    let changes: [fn(&mut SessionState); 12] = [
        |session| session.owner = Principal::anonymous(),
        |session| session.model.0[0] ^= 1,
        |session| session.request.prompt.push('x'),
        |session| session.request.seed ^= 1,
        |session| session.request.temperature_milli += 1,
        |session| session.permitted_tokens += 1,
        |session| session.progress.prompt_tokens += 1,
        |session| session.progress.tokens.push(0),
        |session| session.progress.text.push(0),
        |session| session.progress.chain[31] ^= 1,
        |session| session.progress.work += 1,
        |session| session.progress.ended = Some(Ended::EndOfText),
    ];
    let mut digests = vec![canister.sessions.digest()];
    for change in changes {
        let mut sessions = canister.sessions.clone();
        change(Arc::make_mut(sessions.sessions.get_mut(&40).expect("open")));
        digests.push(sessions.digest());
    }
    let count = digests.len();
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), count);
}
