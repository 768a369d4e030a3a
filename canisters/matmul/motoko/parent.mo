// Multiplies matrices by tiles on other canisters, with the result of one product on one machine.
//
// An extent of n elements is cut every so many elements from 0 on, the last tile being what is left. An output tile (i, j)
// is the sum over all k of the products of tiles (i, k) and (k, j). Floats are added in one order alone: the sums of an
// output tile travel with it from child to child, k increasing. Integers are exact, so their products run in any order
// and are added here.
//
// Product t goes to child t mod n; if that fails, traps, runs dry or answers with another tile, to the next in the ring,
// until all n have failed. So neither the number of children, nor which of them fail, nor the shape of tiles can be seen
// in the result.
//
// `node compile.mjs enhanced parent.mo parent.wasm` in testing/driver/motoko, after `npm ci`, compiles it.
import Prim "mo:⛔";

/*persistent*/ actor {
  // Row by row.
  type Elements = { #float : [Float]; #int : [Int] };
  type Matrix = { rows : Nat; columns : Nat; elements : Elements };
  type Shape = { rows : Nat; inner : Nat; columns : Nat };
  // Tile (row, inner) of the left matrix and tile (inner, column) of the right one.
  type Coordinates = { row : Nat; inner : Nat; column : Nat };
  type Work = { at : Coordinates; shape : Shape; a : Elements; b : Elements; sums : ?Elements };
  type Done = { at : Coordinates; sums : Elements };
  type Reply = { #ok : Done; #err : Text };
  type Child = actor { compute : Work -> async Reply };
  type Result<T> = { #ok : T; #err : Text };
  // An extent in tiles.
  type Cut = { extent : Nat; tile : Nat; count : Nat };
  type Span = { start : Nat; count : Nat };
  type Plan = { rows : Cut; inner : Cut; columns : Cut };

  // Calls that wait for an answer at a time.
  /*transient*/ let inFlightMax = 16;
  // Bytes of a call, below those of a message.
  /*transient*/ let callBytesMax = 2_000_000;

  /*stable*/ var children : [Principal] = [];

  // The canisters that compute tiles, in the order of the ring.
  public shared ({ caller }) func setChildren(ring : [Principal]) : async Result<()> {
    if (not Prim.isController caller) return #err("not a controller: " # debug_show caller);
    children := ring;
    #ok;
  };

  // a b, in tiles of at most this shape.
  public shared ({ caller }) func multiply(a : Matrix, b : Matrix, tile : Shape) : async Result<Matrix> {
    if (not Prim.isController caller) return #err("not a controller: " # debug_show caller);
    let ring = children;
    switch (refusal(a, b, tile, ring)) {
      case (?reason) return #err reason;
      case null {};
    };
    let plan = {
      rows = cut(a.rows, tile.rows);
      inner = cut(a.columns, tile.inner);
      columns = cut(b.columns, tile.columns);
    };
    let outputs = plan.rows.count * plan.columns.count;
    let products = outputs * plan.inner.count;
    // As many as may run side by side.
    let independent = switch (a.elements) {
      case (#float _) outputs;
      case (#int _) products;
    };
    let sums = Prim.Array_init<?Elements>(outputs, null);
    var first = 0;
    while (first < products) {
      let count = min(inFlightMax, min(products, (first / independent + 1) * independent) - first);
      let works = Prim.Array_tabulate<Work>(count, func n = workOf(a, b, plan, sums, first + n));
      for (work in works.vals()) {
        let bytes = (to_candid (work)).size();
        if (bytes > callBytesMax) return #err(name(work.at) # " is more than a call can carry: " # debug_show bytes # " bytes");
      };
      let calls = Prim.Array_init<?(async Reply)>(count, null);
      for (n in calls.keys()) {
        try { calls[n] := ?child(ring, first + n).compute(works[n]) } catch _ {};
      };
      var failure : ?Text = null;
      for (n in calls.keys()) {
        let output = (first + n) % outputs;
        let reply = try {
          switch (calls[n]) {
            case (?call) await call;
            case null #err "it cannot be called";
          };
        } catch error #err(Prim.errorMessage error);
        switch (await* settle(ring, first + n, works[n], reply)) {
          case (#ok part) sums[output] := ?gather(sums[output], part);
          case (#err reason) failure := ?reason;
        };
      };
      switch failure {
        case (?reason) return #err reason;
        case null {};
      };
      first += count;
    };
    let product = { rows = a.rows; columns = b.columns; elements = assemble(plan, sums, a.elements) };
    let bytes = (to_candid (product)).size();
    if (bytes > callBytesMax) return #err("the product is more than a reply can carry: " # debug_show bytes # " bytes");
    #ok product;
  };

  // Why matrices cannot be multiplied, if they cannot.
  func refusal(a : Matrix, b : Matrix, tile : Shape, ring : [Principal]) : ?Text {
    for ((what, matrix) in [("a", a), ("b", b)].vals()) {
      if (size(matrix.elements) != matrix.rows * matrix.columns) {
        return ?(what # " is not " # by(matrix.rows, matrix.columns) # ": " # debug_show size(matrix.elements) # " elements");
      };
    };
    if (a.columns != b.rows) {
      return ?("shapes do not fit: " # by(a.rows, a.columns) # " times " # by(b.rows, b.columns));
    };
    if (tile.rows == 0 or tile.inner == 0 or tile.columns == 0) {
      return ?("a tile has no elements: " # by(tile.rows, tile.inner) # " x " # debug_show tile.columns);
    };
    if (ring.size() == 0) return ?"there are no children";
    // Integers have a byte at least.
    let elementBytes = switch (a.elements, b.elements) {
      case (#float _, #float _) 8;
      case (#int _, #int _) 1;
      case _ return ?"elements differ";
    };
    let bytes = a.rows * b.columns * elementBytes;
    if (bytes > callBytesMax) return ?("the product is more than a reply can carry: " # debug_show bytes # " bytes");
    null;
  };

  // Product `number`: its inner index varies last.
  func workOf(a : Matrix, b : Matrix, plan : Plan, sums : [var ?Elements], number : Nat) : Work {
    let output = number % sums.size();
    let at = {
      row = output / plan.columns.count;
      inner = number / sums.size();
      column = output % plan.columns.count;
    };
    let rows = span(plan.rows, at.row);
    let inner = span(plan.inner, at.inner);
    let columns = span(plan.columns, at.column);
    {
      at;
      shape = { rows = rows.count; inner = inner.count; columns = columns.count };
      a = part(a, rows, inner);
      b = part(b, inner, columns);
      sums = switch (a.elements) {
        case (#float _) sums[output];
        case (#int _) null;
      };
    };
  };

  // The sums of a product whose first child has answered so; what is wrong is asked of the next in the ring.
  func settle(ring : [Principal], number : Nat, work : Work, first : Reply) : async* Result<Elements> {
    var reply = first;
    var step = 0;
    loop {
      let reason = switch reply {
        case (#ok { at; sums }) {
          if (at == work.at and fits(sums, work)) return #ok sums;
          "it answered with " # debug_show size(sums) # " elements of " # name at;
        };
        case (#err text) text;
      };
      let last = ring[(number + step) % ring.size()];
      step += 1;
      if (step == ring.size()) {
        return #err("no child computed " # name(work.at) # "; the last, " # debug_show last # ": " # reason);
      };
      reply := try { await child(ring, number + step).compute(work) } catch error #err(Prim.errorMessage error);
    };
  };

  func child(ring : [Principal], number : Nat) : Child = actor (debug_show (ring[number % ring.size()]));

  func fits(sums : Elements, { a; shape } : Work) : Bool = switch (sums, a) {
    case ((#float _, #float _) or (#int _, #int _)) size sums == shape.rows * shape.columns;
    case _ false;
  };

  // The sums of an output tile after one more product.
  func gather(sums : ?Elements, part : Elements) : Elements = switch (sums, part) {
    case (?#int sums, #int part) #int(Prim.Array_tabulate<Int>(part.size(), func n = sums[n] + part[n]));
    // Floats have travelled along.
    case _ part;
  };

  // The product from the sums of its tiles; those of no products are 0.
  func assemble(plan : Plan, sums : [var ?Elements], like : Elements) : Elements {
    let count = plan.rows.extent * plan.columns.extent;
    // Output tile of an element, and which one of its elements it is.
    func place(n : Nat) : (Nat, Nat) {
      let row = n / plan.columns.extent;
      let column = n % plan.columns.extent;
      let tile = column / plan.columns.tile;
      let output = row / plan.rows.tile * plan.columns.count + tile;
      (output, row % plan.rows.tile * span(plan.columns, tile).count + column % plan.columns.tile);
    };
    switch like {
      case (#float _) #float(Prim.Array_tabulate<Float>(count, func n {
        let (output, index) = place n;
        switch (sums[output]) { case (?#float part) part[index]; case _ 0.0 };
      }));
      case (#int _) #int(Prim.Array_tabulate<Int>(count, func n {
        let (output, index) = place n;
        switch (sums[output]) { case (?#int part) part[index]; case _ 0 };
      }));
    };
  };

  // Some rows and columns of a matrix.
  func part(matrix : Matrix, rows : Span, columns : Span) : Elements {
    func cells<E>(elements : [E]) : [E] = Prim.Array_tabulate<E>(rows.count * columns.count, func n {
      elements[(rows.start + n / columns.count) * matrix.columns + columns.start + n % columns.count];
    });
    switch (matrix.elements) {
      case (#float elements) #float(cells<Float> elements);
      case (#int elements) #int(cells<Int> elements);
    };
  };

  func cut(extent : Nat, most : Nat) : Cut {
    // A tile beyond the matrix is the matrix.
    let tile = if (extent == 0) 1 else min(most, extent);
    { extent; tile; count = (extent + tile - 1 : Nat) / tile };
  };

  func span({ extent; tile } : Cut, index : Nat) : Span {
    let start = index * tile;
    { start; count = min(tile, extent - start) };
  };

  func size(elements : Elements) : Nat = switch elements {
    case (#float elements) elements.size();
    case (#int elements) elements.size();
  };

  func name({ row; inner; column } : Coordinates) : Text {
    "tile (" # debug_show row # ", " # debug_show inner # ", " # debug_show column # ")";
  };

  func by(rows : Nat, columns : Nat) : Text = debug_show rows # " x " # debug_show columns;

  func min(a : Nat, b : Nat) : Nat = if (a < b) a else b;
};
