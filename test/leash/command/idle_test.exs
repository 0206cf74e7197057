defmodule Leash.Command.IdleTest do
  use Leash.Test.Case, async: true

  alias Leash.{CommandError, OptionsError}

  # Writes every 50 ms for a while, says its pid, and is silent.
  @silent "i=0; while [ $i -lt 12 ]; do echo $i; sleep 0.05; i=$((i+1)); done; echo $$; sleep 60 & wait"

  defp now, do: System.monotonic_time(:millisecond)

  defp pid(output), do: output |> String.split() |> List.last() |> String.to_integer()

  test "a command that writes goes on, and one that is silent for so long is ended" do
    decoy = start_decoy("idle")
    began = now()
    assert {output, {:timeout, :idle}} = Leash.cmd("sh", ["-c", @silent], timeout: [idle: 400])
    assert (now() - began) in 900..4_000
    assert output =~ "11\n"
    refute File.exists?("/proc/#{pid(output)}")
    assert_unharmed(decoy)
  end

  test "the total time counts beside it, and either may be left out" do
    busy = "while :; do echo x; sleep 0.05; done"

    for timeout <- [[total: 300, idle: 5_000], [total: 300], 300, [total: 300, idle: :infinity]] do
      assert {_output, :timeout} = Leash.cmd("sh", ["-c", busy], timeout: timeout)
    end

    for timeout <- [[], [idle: :infinity], [total: :infinity]],
        do: assert({"a\n", 0} = Leash.cmd("echo", ["a"], timeout: timeout))
  end

  test "stderr that is captured counts as output" do
    line = "for i in 1 2 3 4 5 6 7 8; do echo x >&2; sleep 0.1; done"
    options = [timeout: [idle: 500]]
    assert {{"", _err}, 0} = Leash.cmd("sh", ["-c", line], [stderr: :capture] ++ options)
    options = [stdout: :null, stderr: :capture] ++ options
    assert {{"", _err}, 0} = Leash.cmd("sh", ["-c", line], options)

    assert {"", {:timeout, :idle}} =
             Leash.cmd("sh", ["-c", line], stderr: :null, timeout: [idle: 200])
  end

  test "a program that has exited keeps its status when what holds its output is silent" do
    options = [timeout: [idle: 200]]
    assert {"", 3} = Leash.cmd("sh", ["-c", "sleep 60 & exit 3"], options)
  end

  test "a stream tells the two ends apart, and does not count the consumer's time" do
    stream = Leash.stream("sh", ["-c", @silent], timeout: [idle: 400], lines: true)
    assert List.last(Enum.to_list(stream)) == {:exit, {:timeout, :idle}}

    # Each element takes longer than the program may be silent.
    slow = Leash.stream("seq", ["4"], timeout: [idle: 100], max_chunk_size: 2)
    elements = Enum.map(slow, fn element -> Process.sleep(150) && element end)
    assert elements == ["1\n", "2\n", "3\n", "4\n", {:exit, {:status, 0}}]

    error =
      assert_raise CommandError, fn ->
        Enum.to_list(Leash.stream!("sleep", ["60"], timeout: [idle: 100]))
      end

    assert error.how == {:timeout, :idle}
    assert Exception.message(error) =~ "wrote nothing in time"
  end

  test "what is no such option is refused with a sentence" do
    for {options, words} <- [
          {[timeout: [idle: -1]], "milliseconds or :infinity"},
          {[timeout: [all: 1]], "one of [:total, :idle]"},
          {[timeout: :never], "[total: milliseconds, idle: milliseconds]"},
          {[timeout: [idle: 9], stdout: :null], "no :idle where no output is read"},
          {[timeout: [idle: 9], use_stdio: false], "no :idle where no output is read"}
        ] do
      error = assert_raise OptionsError, fn -> Leash.cmd("true", [], options) end
      assert Exception.message(error) =~ words
    end
  end

  test "Erlang gives a map or a proplist" do
    for timeout <- [%{idle: 100}, [idle: 100]] do
      assert {"", {:timeout, :idle}} = :leash.cmd(~c"sleep", [~c"60"], %{timeout: timeout})
    end
  end
end
