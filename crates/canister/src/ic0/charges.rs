//! What system calls cost beside the weight of the `call`, so that `performance_counter` counts as on the Internet
//! Computer.
//!
//! # Design
//! One table for memories of both widths, of which every import takes its row: an import that has none does not compile.
//! Rows are the replica's own figures (its table of overheads, and what it adds for bytes); what it does in compiled code
//! instead, the size of stable memory, is free. [`Log`] says what printing costs, which depends on what was printed before.
//!
//! # Units and bounds
//! Instructions, saturating. Bytes are those that the call names, before any of them is looked at.
use crate::{engine::Instructions, host::SYSTEM_CALL};
use std::collections::VecDeque;

/// A byte that goes to or comes from another canister or a user.
const TRANSMITTED_BYTE: Instructions = 50;
/// What a record of the log takes beside its content.
const LOG_RECORD_BYTES: u64 = 40;

/// The price of a system call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Charge {
    fixed: Instructions,
    per_byte: Instructions,
}

impl Charge {
    /// Of a call that names so many bytes.
    pub(crate) fn of(self, bytes: u64) -> Instructions {
        self.fixed
            .saturating_add(self.per_byte.saturating_mul(bytes))
    }
}

macro_rules! charges {
    ($($fixed:expr, $per_byte:expr => $($name:ident)*;)*) => {
        $($(
            #[allow(non_upper_case_globals)]
            pub(super) const $name: Charge = Charge { fixed: $fixed, per_byte: $per_byte };
        )*)*
    };
}

charges! {
    0, 0 => stable_size stable64_size;
    20, 1 => stable_read stable_write stable64_read stable64_write;
    100, 0 => stable_grow stable64_grow;
    // And what the log takes.
    100, 0 => debug_print;
    SYSTEM_CALL, 1 => trap;
    200, 0 => performance_counter;
    1_000, 1 => is_controller;
    1_500, 1 => call_new;
    5_000, 0 => call_perform;
    10_000, 0 => cost_http_request_v2;
    SYSTEM_CALL, TRANSMITTED_BYTE => call_data_append msg_reply_data_append msg_reject;
    SYSTEM_CALL, 1 =>
        canister_self_copy certified_data_set cost_sign_with_ecdsa cost_sign_with_schnorr cost_vetkd_derive_key
        data_certificate_copy env_var_name_copy env_var_value_copy msg_arg_data_copy msg_caller_copy
        msg_caller_info_data_copy msg_caller_info_signer_copy msg_method_name_copy msg_reject_msg_copy root_key_copy
        subnet_self_copy;
    SYSTEM_CALL, 0 =>
        accept_message call_cycles_add call_cycles_add128 call_on_cleanup call_with_best_effort_response
        canister_cycle_balance canister_cycle_balance128 canister_liquid_cycle_balance128 canister_self_size
        canister_status canister_version cost_call cost_create_canister cost_http_request cycles_burn128
        data_certificate_present data_certificate_size env_var_count env_var_name_exists env_var_name_size
        env_var_value_size global_timer_set in_replicated_execution msg_arg_data_size msg_caller_info_data_size
        msg_caller_info_signer_size msg_caller_size msg_cycles_accept msg_cycles_accept128 msg_cycles_available
        msg_cycles_available128 msg_cycles_refunded msg_cycles_refunded128 msg_deadline msg_method_name_size
        msg_reject_code msg_reject_msg_size msg_reply root_key_size subnet_self_node_count subnet_self_size time;
}

/// The records that a message has left in the log, of which only the last ones fit.
#[derive(Debug, Default)]
pub(crate) struct Log {
    records: VecDeque<u64>,
    bytes: u64,
}

impl Log {
    /// What a line of so many bytes costs in a log of `limit` bytes: twice the room that it takes, and its transmission
    /// as far as there is room left.
    pub(crate) fn charge(&self, size: u64, limit: u64) -> Instructions {
        let left = limit.saturating_sub(self.bytes);
        2 * size.min(limit) + TRANSMITTED_BYTE * size.min(left)
    }

    /// Adds a line of so many bytes in the place of the oldest ones, if need be.
    pub(crate) fn push(&mut self, size: u64, limit: u64) {
        let record = LOG_RECORD_BYTES + size.min(limit.saturating_sub(LOG_RECORD_BYTES));
        while self.bytes + record > limit
            && let Some(oldest) = self.records.pop_front()
        {
            self.bytes -= oldest;
        }
        self.records.push_back(record);
        self.bytes += record;
    }
}
