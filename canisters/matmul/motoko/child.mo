// Multiplies tiles of matrices for a parent: sums + a b.
//
// Every sum goes on from what the parent sent, the inner index increasing. Floats have 64 bits; a product and a sum are
// each rounded once, as Wasm has it. Integers have no bounds. It changes nothing and answers everybody.
import Prim "mo:⛔";

/*persistent*/ actor {
  // Row by row.
  type Elements = { #float : [Float]; #int : [Int] };
  type Shape = { rows : Nat; inner : Nat; columns : Nat };
  // Tile (row, inner) of the left matrix and tile (inner, column) of the right one.
  type Coordinates = { row : Nat; inner : Nat; column : Nat };
  // Without sums they start at 0.
  type Work = { at : Coordinates; shape : Shape; a : Elements; b : Elements; sums : ?Elements };
  type Done = { at : Coordinates; sums : Elements };

  public func compute(work : Work) : async { #ok : Done; #err : Text } {
    let { at; shape; a; b } = work;
    let { rows; inner; columns } = shape;
    for ((what, elements, rows, columns) in [
      ("a", ?a, rows, inner),
      ("b", ?b, inner, columns),
      ("sums", work.sums, rows, columns),
    ].vals()) {
      switch elements {
        case (?elements) if (size elements != rows * columns) {
          return #err(what # " is not " # debug_show rows # " x " # debug_show columns # ": " # debug_show size(elements) # " elements");
        };
        case null {};
      };
    };
    switch (a, b, work.sums) {
      case (#float a, #float b, null) #ok { at; sums = #float(multiplyFloats(shape, a, b, func _ = 0.0)) };
      case (#float a, #float b, ?#float sums) #ok { at; sums = #float(multiplyFloats(shape, a, b, func n = sums[n])) };
      case (#int a, #int b, null) #ok { at; sums = #int(multiplyInts(shape, a, b, func _ = 0)) };
      case (#int a, #int b, ?#int sums) #ok { at; sums = #int(multiplyInts(shape, a, b, func n = sums[n])) };
      case _ #err "elements differ";
    };
  };

  func size(elements : Elements) : Nat = switch elements {
    case (#float elements) elements.size();
    case (#int elements) elements.size();
  };

  func multiplyFloats(shape : Shape, a : [Float], b : [Float], start : Nat -> Float) : [Float] {
    Prim.Array_tabulate<Float>(shape.rows * shape.columns, func n {
      var left = n / shape.columns * shape.inner;
      var right = n % shape.columns;
      let end = left + shape.inner;
      var sum = start n;
      while (left < end) {
        sum += a[left] * b[right];
        left += 1;
        right += shape.columns;
      };
      sum;
    });
  };

  func multiplyInts(shape : Shape, a : [Int], b : [Int], start : Nat -> Int) : [Int] {
    Prim.Array_tabulate<Int>(shape.rows * shape.columns, func n {
      var left = n / shape.columns * shape.inner;
      var right = n % shape.columns;
      let end = left + shape.inner;
      var sum = start n;
      while (left < end) {
        sum += a[left] * b[right];
        left += 1;
        right += shape.columns;
      };
      sum;
    });
  };
};
