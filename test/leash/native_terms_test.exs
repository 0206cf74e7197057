defmodule Leash.NativeTermsTest do
  # LEASH_TERMS_SECONDS is the length of the test in seconds. LEASH_TERMS_SEED is the seed of the
  # terms.
  use Leash.Test.Case, async: false

  alias Leash.Test.NativeTerms

  @seed 20_260_101
  @moduletag timeout: 3_600_000

  test "every native function is among those that are called with anything" do
    assert NativeTerms.unknown() == []
  end

  # Numbers are pids, so the VM that calls has a pid namespace with only its own processes.
  @tag needs: :pid_namespace
  @tag :slow
  test "no term crashes the VM, signals a bystander or leaves anything" do
    seconds = String.to_integer(System.get_env("LEASH_TERMS_SECONDS", "5"))
    seed = String.to_integer(System.get_env("LEASH_TERMS_SEED", "#{@seed}"))
    dir = tmp_dir!()
    last = Path.join(tmp_dir!(), "last")
    # A shell that reaps comes first: no process may signal pid 1, and else the VM would be pid 1.
    prefix = ~s(unshare --pid --fork --kill-child --mount-proc sh -c '"$@"; exit $?' sh)
    vm = start_vm([], prefix: prefix)

    code =
      "Leash.Test.NativeTerms.run(#{seed}, #{seconds * 1_000}, #{inspect(dir)}, #{inspect(last)})"

    result =
      try do
        VM.eval(vm, code, seconds * 1_000 + 60_000)
      rescue
        dead ->
          # Before the first call there is no file.
          {_found, call} = File.read(last)
          flunk("seed #{seed}: #{Exception.message(dead)}\nThe last call: #{call}")
      end

    seen = "seed #{seed}, #{result.rounds} rounds"

    if System.get_env("LEASH_TERMS_SECONDS"),
      do: IO.puts("#{seen}: #{inspect(result.tally, limit: :infinity)}")

    for key <- [:wrong, :harmed, :ended, :started],
        do:
          assert(
            result[key] == [],
            "#{key} (#{seen}): #{Enum.join(Enum.take(result[key], 5), "\n")}"
          )

    assert result.left == nil, "left (#{seen}): #{inspect(result.left)}"
    refute VM.log(vm) =~ "panicked", seen

    # Each function got past its arguments. Otherwise the test would show nothing about it.
    for {name, tally} <- result.tally,
        do: assert(tally.answer + tally.error > 0, "#{name} (#{seen}): #{inspect(tally)}")
  end
end
