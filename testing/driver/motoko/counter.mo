// What most canisters do: stable variables, calls to others, errors caught, timers, composite queries.
import Prim "mo:⛔";

/*persistent*/ actor class Counter(start : Nat) {
  type Peer = actor {
    increase : Nat -> async Nat;
    fail : Text -> async ();
    get : query () -> async Nat;
  };

  /*stable*/ var count : Nat = start;
  /*stable*/ var saved : [Text] = [];

  public func increase(by : Nat) : async Nat {
    count += by;
    Prim.debugPrint("count " # debug_show count);
    count;
  };

  public query func get() : async Nat { count };

  public func fail(text : Text) : async () { Prim.trap(text) };

  // Calls another canister twice, the second time in vain.
  public func visit(text : Text) : async Text {
    let peer = actor (text) : Peer;
    let reached = await peer.increase(2);
    try {
      await peer.fail("boom");
      "no error";
    } catch (error) {
      debug_show reached # " " # Prim.errorMessage(error);
    };
  };

  public composite query func sum(text : Text) : async Nat {
    let peer = actor (text) : Peer;
    count + (await peer.get());
  };

  // Adds to the count in so many seconds.
  public func later(seconds : Nat64, by : Nat) : async () {
    let nanoseconds = seconds * 1_000_000_000;
    ignore Prim.setTimer(nanoseconds, false, func() : async () { count += by });
  };

  system func preupgrade() { saved := [debug_show count] };
  system func postupgrade() { Prim.debugPrint("saved " # debug_show saved) };
};
