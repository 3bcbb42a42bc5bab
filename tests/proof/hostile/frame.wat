;; A handler of records without a compiler: each record's value is the number of a function of ours that attacks the host.
;; Written by hand, since what a compiler makes never lies about its lengths. The test puts the attacks where ;;ATTACKS stands.
(module
  (type $attack (func (result i32)))
  (type $other (func (param f64) (result i32)))
  (import "tidemill:handler/sql@0.1.0" "execute" (func $execute (param i32 i32 i32 i32 i32)))
  (import "tidemill:handler/sql@0.1.0" "query" (func $query (param i32 i32 i32 i32 i32)))
  (import "tidemill:handler/publisher@0.1.0" "enqueue"
    (func $enqueue (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "tidemill:handler/config@0.1.0" "get" (func $get (param i32 i32 i32)))
  (import "tidemill:handler/log@0.1.0" "write" (func $log (param i32 i32 i32)))
  (import "tidemill:handler/delivery@0.1.0" "random" (func $random (param i32 i32)))
  ;; 0: what a call returns. 512: `ok`, the answer of a delivery that ended well. 1024: texts. 8192: what an attack writes.
  ;; 64 KiB to 128 KiB: what the host writes.
  (memory (export "memory") 4)
  (data (i32.const 1024) "SELECT 'a' AS a, 'b' AS b")
  (data (i32.const 1100) "out")
  (data (i32.const 1120) "\ff\fe\fd")
  (global $mode (mut i32) (i32.const 0))
  (global $free (mut i32) (i32.const 65536))
  (table $own 1 funcref)

  ;; The host asks for room here. What an attack has set it to, it does instead.
  (func (export "cabi_realloc") (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (if (i32.eq (global.get $mode) (i32.const 1)) (then (return (i32.const -16))))
    (if (i32.eq (global.get $mode) (i32.const 2)) (then (loop $ever (br $ever))))
    (if (i32.eq (global.get $mode) (i32.const 3)) (then (call $log (i32.const 0) (i32.const 1024) (i32.const 4))))
    (if (i32.eq (global.get $mode) (i32.const 4)) (then (return (i32.const 65537))))
    (if (i32.eq (global.get $mode) (i32.const 5)) (then (unreachable)))
    (if (i32.gt_u (i32.add (global.get $free) (local.get $size)) (i32.const 131072))
      (then (global.set $free (i32.const 65536))))
    (local.set $at
      (i32.and (i32.add (global.get $free) (i32.sub (local.get $align) (i32.const 1)))
               (i32.sub (i32.const 0) (local.get $align))))
    (global.set $free (i32.add (local.get $at) (local.get $size)))
    (local.get $at))

  ;;ATTACKS

  (func (export "tidemill:handler/records@0.1.0#handle")
    (param i32 i32 i32 i64 i32 i64 i32 i32 i32 i32) (param $value i32) (param $length i32) (param i32 i32) (result i32)
    (local $n i32)
    (loop $digits
      (if (local.get $length)
        (then
          (local.set $n
            (i32.add (i32.mul (local.get $n) (i32.const 10))
                     (i32.sub (i32.load8_u (local.get $value)) (i32.const 48))))
          (local.set $value (i32.add (local.get $value) (i32.const 1)))
          (local.set $length (i32.sub (local.get $length) (i32.const 1)))
          (br $digits))))
    (call_indirect $attacks (type $attack) (local.get $n))))
