;; A canister whose state grows by 64 MiB with each call: 32 MiB of its heap, 32 MiB of stable memory, with bytes that
;; look like chance and are the same everywhere.
(module
    (import "ic0" "msg_reply" (func $reply))
    (import "ic0" "stable64_grow" (func $stable_grow (param i64) (result i64)))
    (import "ic0" "stable64_write" (func $stable_write (param i64 i64 i64)))
    (memory 1)
    (global $random (mut i64) (i64.const 0x9e3779b97f4a7c15))
    ;; Fills the heap from $at to $end by a xorshift generator.
    (func $fill (param $at i32) (param $end i32)
        (local $x i64)
        (local.set $x (global.get $random))
        (loop $next
            (local.set $x (i64.xor (local.get $x) (i64.shl (local.get $x) (i64.const 13))))
            (local.set $x (i64.xor (local.get $x) (i64.shr_u (local.get $x) (i64.const 7))))
            (local.set $x (i64.xor (local.get $x) (i64.shl (local.get $x) (i64.const 17))))
            (i64.store (local.get $at) (local.get $x))
            (local.set $at (i32.add (local.get $at) (i32.const 8)))
            (br_if $next (i32.lt_u (local.get $at) (local.get $end))))
        (global.set $random (local.get $x)))
    (func (export "canister_update grow")
        (local $at i32)
        (local $end i32)
        (local $stable i64)
        (local.set $at (i32.mul (memory.grow (i32.const 512)) (i32.const 65536)))
        (local.set $end (i32.add (local.get $at) (i32.const 33554432)))
        (local.set $stable (i64.mul (call $stable_grow (i64.const 512)) (i64.const 65536)))
        (call $fill (local.get $at) (local.get $end))
        (call $stable_write
            (local.get $stable)
            (i64.extend_i32_u (local.get $at))
            (i64.const 33554432))
        (call $fill (local.get $at) (local.get $end))
        (call $reply)))
