defmodule Leash.OpenPort.OptionsTest do
  use ExUnit.Case, async: true

  alias Leash.OptionsError

  defp refused(command \\ "true", args \\ [], options) do
    Leash.open_port(command, args, options)
    flunk("nothing was raised")
  rescue
    error in OptionsError -> {error.key, Exception.message(error)}
  end

  test "an error names option, expectation and value" do
    assert {:packet, message} = refused(packet: 3)
    assert message =~ "1, 2 or 4" and message =~ "3"
    assert {:line, _} = refused(line: 0)
    assert {:cd, _} = refused(cd: :here)
    assert {:arg0, _} = refused(arg0: "a\0b")
    assert {:parallelism, _} = refused(parallelism: 1)
    assert {:busy_limits_port, _} = refused(busy_limits_port: {2, 1})
    assert {:busy_limits_msgq, _} = refused(busy_limits_msgq: 7)
    assert {:stop, _} = refused(stop: [sigfoo: 1])
    assert {:linger, _} = refused(linger: -1)
    assert {:mark, _} = refused(mark: :no)
    assert {:run_id_flag, _} = refused(run_id_flag: 1)
    assert {nil, message} = refused([:binary, :binery])
    assert message =~ ":binery" and message =~ ":exit_status"
    assert {nil, message} = refused(foo: 1)
    assert message =~ ":foo"
    assert {nil, _} = refused(:binary)
    assert {nil, _} = refused([:binary | :eof])
    assert {nil, _} = refused(["binary"])
  end

  test "what cannot work says why" do
    assert {:nouse_stdio, message} = refused([:nouse_stdio])
    assert message =~ "descriptors 3 and 4"
    assert {:args, message} = refused(args: ["x"])
    assert message =~ "second argument"
    assert {nil, message} = refused([:binary, line: 10, packet: 2])
    assert message =~ "go together"
  end

  test "command and arguments are texts without NUL" do
    assert {:command, _} = refused("a\0b", [], [])
    assert {:command, _} = refused("", [], [])
    assert {:command, _} = refused(:sh, [], [])
    assert {:args, _} = refused("true", ["a\0b"], [])
    assert {:args, _} = refused("true", "x", [])
    assert {:args, _} = refused("true", [1], [])
  end

  test "variables are checked and not shown" do
    assert {:env, message} = refused(env: [{"SECRET", 12_345}])
    refute message =~ "12_345" or message =~ "12345"
    assert {:env, _} = refused(env: [{~c"LEASH_RUN", ~c"x"}])
    assert {:env, _} = refused(env: [{"A=B", "x"}])
    assert {:env, _} = refused(env: [:a | :b])
    assert {:env, _} = refused(env: nil)
  end

  test "the last of two counts, as in Port.open/2" do
    port =
      Leash.open_port("sh", ["-c", "echo $0"], [
        :exit_status,
        arg0: "a",
        line: 2,
        arg0: "b",
        line: 9
      ])

    assert_receive {^port, {:data, {:eol, ~c"b"}}}, 5_000
  end
end
