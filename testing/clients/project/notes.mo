// Notes that upgrades keep.
import Prim "mo:⛔";

persistent actor {
  var notes : [Text] = [];

  public func add(note : Text) : async Nat {
    let old = notes;
    notes := Prim.Array_tabulate<Text>(
      old.size() + 1,
      func index = if (index < old.size()) { old[index] } else { note },
    );
    notes.size();
  };

  public query func list() : async [Text] { notes };
};
