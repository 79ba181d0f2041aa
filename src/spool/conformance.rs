//! The suite that every kind of spool passes: each promise of [`Spool`] is one check, named as a
//! sentence.
//!
//! Whoever writes a store gives the suite a [`Bench`] to open it on and awaits [`suite`] in a test.
//! The suite sees the trait alone and tells the time itself, so that no check waits for a clock.

mod accept;
mod accounts;
mod bodies;
mod changes;
mod claims;
mod feedback;
mod fixture;
mod journal;
mod listing;
mod reopen;
mod settles;
mod suppressions;
mod sweeps;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Spool, SpoolError, SpoolOptions};

/// Where the suite opens the stores it tries.
#[async_trait]
pub trait Bench: Send + Sync {
    /// Opens the store of this name: an empty one at first, and where stores are
    /// [`persistent`](Bench::persistent), what was left there afterwards.
    ///
    /// # Errors
    /// What the store answers; [`SpoolError::Locked`] while it is open, with a path that ends in
    /// `store`.
    async fn open(&self, store: &str, options: SpoolOptions) -> Result<Arc<dyn Spool>, SpoolError>;

    /// Whether a store that is opened again still has its mail.
    fn persistent(&self) -> bool;

    /// Whether several may have a store open at a time, and share its mail.
    fn is_shared(&self) -> bool {
        false
    }

    /// Puts down under the name `copy` what a process that is killed now would leave of the open
    /// store `store`. Asked of persistent stores only, while nothing is being written.
    fn kill(&self, store: &str, copy: &str);
}

type Check = (&'static str, fn(&dyn Bench) -> BoxFuture<'_, ()>);

macro_rules! checks {
    ($($room:ident::{$($check:ident),* $(,)?})*) => {
        &[$($((stringify!($check), |bench| Box::pin($room::$check(bench)))),*),*]
    };
}

const CHECKS: &[Check] = checks! {
    accept::{
        bodies_of_every_size_come_back_byte_for_byte,
        all_that_is_known_of_a_mail_comes_back,
        every_recipient_is_kept_in_the_envelopes_order,
        a_group_is_answered_in_order,
        a_group_of_any_size_is_answered_in_order,
        a_mail_that_is_put_again_is_one_mail,
        the_same_key_with_the_same_content_is_the_same_mail,
        the_same_key_with_other_content_is_refused,
        a_key_belongs_to_whoever_handed_the_mail_in,
        one_key_put_by_many_at_once_is_one_mail,
        a_key_is_remembered_while_its_mail_is_pending_and_forgotten_after_its_time,
        a_put_that_nobody_waits_for_is_whole_or_not_there,
    }
    claims::{
        nothing_is_handed_out_before_it_is_due,
        what_was_due_first_comes_first,
        each_turn_takes_its_priority_and_falls_through_to_the_most_urgent,
        further_claims_are_for_critical_mail_only,
        a_claim_stops_before_its_bodies_add_up_to_too_much,
        a_claim_holds_no_more_recipients_than_are_wanted,
        only_the_wanted_queues_are_touched,
        recipients_of_one_mail_on_one_route_come_together,
        no_delivery_is_leased_twice_by_many_claimers,
        a_dropped_lease_gives_its_delivery_back_as_it_was,
        order_holds_over_more_mail_than_is_kept_at_hand,
        critical_mail_overtakes_what_was_queued_before,
    }
    settles::{
        every_ending_is_recorded_and_is_the_end,
        a_deferred_delivery_comes_back_when_it_is_due,
        each_recipient_has_a_verdict_of_its_own,
        a_settle_without_the_current_lease_changes_nothing,
        a_settle_that_nobody_waits_for_is_recorded,
        a_marked_delivery_is_never_handed_out_again,
        a_mark_without_the_current_lease_changes_nothing,
        a_marked_delivery_can_be_settled_like_any_other,
    }
    changes::{
        a_pending_mail_can_be_cancelled_and_no_other,
        a_cancel_takes_the_recipients_that_it_can,
        dead_and_cancelled_deliveries_can_be_tried_again,
        a_deferred_delivery_can_be_tried_at_once,
        a_retry_leaves_what_was_delivered_alone,
        a_retry_of_dead_letters_leaves_what_was_withdrawn_beside_them_alone,
        only_a_mail_that_has_ended_can_be_purged,
        mail_of_unknown_routes_is_moved_to_the_fallback,
        callers_that_wait_for_changes_are_notified,
    }
    sweeps::{
        expiry_holds_in_every_state,
        what_a_sender_holds_is_left_to_it_by_expiry,
        many_that_expire_at_once_are_ended_in_bounded_steps,
        finished_mail_is_kept_and_then_deleted_in_bounded_steps,
        the_next_due_time_is_the_first_at_which_something_is_to_be_done,
        a_clock_that_follows_the_next_due_time_brings_every_mail_to_its_end,
    }
    listing::{
        the_newest_mails_are_listed_first,
        mails_are_found_by_what_is_asked,
        pending_mails_are_listed_as_they_are_due,
        what_waits_for_its_time_is_found_beside_very_much_that_is_due,
        mail_to_thousands_fills_a_page_sooner,
        every_mail_is_on_exactly_one_page_while_others_arrive,
        a_cursor_that_makes_no_sense_is_an_error,
        the_numbers_are_the_truth,
    }
    suppressions::{
        who_is_not_to_get_mail_is_kept_and_found,
        every_entry_is_on_exactly_one_page,
        a_delivery_that_is_dead_from_the_start_is_kept_and_never_handed_out,
        who_is_not_to_get_mail_survives_close_and_kill,
    }
    feedback::{
        what_comes_back_is_kept_beside_its_delivery_once_and_goes_with_its_mail,
        what_comes_back_is_reported_and_who_bounced_gets_no_more_mail,
        one_delivery_keeps_no_more_than_so_much_of_what_comes_back,
    }
    journal::{
        what_others_leave_a_reader_is_kept_and_moves_it_nowhere,
        a_reader_that_is_too_slow_learns_what_it_missed,
        nothing_is_due_where_all_is_done,
        who_did_something_to_a_mail_is_recorded,
    }
    accounts::{
        what_each_has_pending_and_handed_in_is_counted,
        recipients_that_are_dead_from_the_start_are_handed_in_and_not_pending,
        what_each_has_handed_in_is_known_to_whoever_opens_the_store,
    }
    bodies::{
        the_message_of_delivered_mail_goes_and_its_record_stays,
        a_message_stays_until_every_recipient_has_it,
        a_message_that_is_not_kept_is_gone_at_once,
    }
    reopen::{
        after_close_everything_is_answered_with_closed,
        a_store_that_is_open_cannot_be_opened_again,
        a_store_that_is_shared_is_one_queue_for_all_who_have_it_open,
        every_state_survives_close_and_kill,
        what_was_in_flight_is_queued_again,
        a_marked_delivery_is_dead_in_doubt_after_a_kill,
        keys_survive,
        a_pause_survives_until_it_is_over,
        what_was_deleted_stays_deleted,
        a_store_that_was_dropped_unclosed_opens_again,
    }
};

/// Tries everything.
///
/// # Panics
/// When a promise is broken, after all have been tried; the message names every one that was.
pub async fn suite(bench: &dyn Bench) {
    let mut broken = Vec::new();
    for (name, check) in CHECKS {
        if AssertUnwindSafe(check(bench)).catch_unwind().await.is_err() {
            broken.push(*name);
        }
    }
    assert!(
        broken.is_empty(),
        "{} of {} promises are broken: {broken:#?}",
        broken.len(),
        CHECKS.len()
    );
}
