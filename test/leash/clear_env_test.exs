defmodule Leash.ClearEnvTest do
  # A program that inherits none of the VM's variables, or a few, wherever it is started.
  use Leash.Test.Case, async: false

  @vm %{"LEASH_TEST_SECRET" => "s3cret", "LEASH_TEST_KEPT" => "kept", "LEASH_TEST_EMPTY" => ""}

  setup do
    for {name, value} <- @vm, do: System.put_env(name, value)
    on_exit(fn -> for {name, _value} <- @vm, do: System.delete_env(name) end)
    nothing_is_listed_after()
  end

  # Returns the variables of a program of each kind, without LEASH_RUN, which all of them have.
  defp seen(options) do
    env = System.find_executable("env")
    {:ok, worker} = Worker.start_link([command: env, on_output: self()] ++ options)
    {:ok, other} = :leash.start_link(Map.new([command: env, on_output: self()] ++ options))

    texts = [
      elem(Leash.cmd(env, [], options), 0),
      elem(:leash.cmd(env, [], Map.new(options)), 0),
      Enum.join(Leash.stream!(env, [], options)),
      output(worker, ""),
      output(other, ""),
      port(Leash.open_port(env, [], [:binary, :exit_status | options]), ""),
      port(:leash.open_port(env, [], [:binary, :exit_status | options]), "")
    ]

    for text <- texts do
      {runs, others} =
        text
        |> String.split("\n", trim: true)
        |> Enum.split_with(&String.starts_with?(&1, "LEASH_RUN=#{Leash.run_id()}."))

      assert [_run] = runs
      Enum.sort(others)
    end
    |> Enum.uniq()
  end

  defp output(worker, text) do
    receive do
      {:leash_output, ^worker, :stdout, more} -> output(worker, text <> more)
    after
      0 -> if Process.alive?(worker), do: await(worker, text), else: text
    end
  end

  defp await(worker, text) do
    monitor = Process.monitor(worker)
    assert_receive {:DOWN, ^monitor, :process, ^worker, :normal}, 10_000
    output(worker, text)
  end

  defp port(port, text) do
    receive do
      {^port, {:data, more}} -> port(port, text <> more)
      {^port, {:exit_status, 0}} -> text
    after
      10_000 -> flunk("the port's program did not end: #{text}")
    end
  end

  test "env: :clear leaves LEASH_RUN alone" do
    assert seen(env: :clear) == [[]]
    assert seen(env: :clear, clear_env: false) == [[]]
  end

  test "clear_env: true leaves the variables of :env" do
    assert seen(clear_env: true) == [[]]
    assert seen(clear_env: []) == [[]]

    assert seen(clear_env: true, env: %{"A" => "1", "LEASH_TEST_KEPT" => "ours", "B" => nil}) ==
             [["A=1", "LEASH_TEST_KEPT=ours"]]
  end

  test "a list of names keeps those of the VM that are set" do
    names = ["LEASH_TEST_KEPT", "LEASH_TEST_EMPTY", "LEASH_TEST_NOT_SET"]
    kept = ["LEASH_TEST_EMPTY=", "LEASH_TEST_KEPT=kept"]
    assert seen(clear_env: names) == [kept]
    assert seen(clear_env: names, env: :clear) == [kept]

    assert seen(clear_env: names, env: [{"A", "1"}, {"LEASH_TEST_KEPT", nil}]) ==
             [["A=1", "LEASH_TEST_EMPTY="]]
  end

  test "nothing is cleared that was not asked for" do
    assert [variables] = seen(clear_env: false)
    assert "LEASH_TEST_SECRET=s3cret" in variables and length(variables) > 3
  end

  test "names and values may be charlists in Erlang" do
    env = [{~c"A", ~c"1"}]
    expected = ["A=1", "LEASH_TEST_KEPT=kept"]
    options = [clear_env: [~c"LEASH_TEST_KEPT"], env: env]
    {text, 0} = :leash.cmd(~c"env", [], options)
    assert Enum.sort(String.split(text, "\n", trim: true) |> Enum.reject(&run?/1)) == expected
    text = port(:leash.open_port(~c"env", [], [:binary, :exit_status | options]), "")
    assert Enum.sort(String.split(text, "\n", trim: true) |> Enum.reject(&run?/1)) == expected
  end

  defp run?(line), do: String.starts_with?(line, "LEASH_RUN=")

  # The name of a variable is any bytes but "=" and NUL.
  @tag :slow
  test "a variable whose name is no text is cleared, too" do
    for locale <- ["C.UTF-8", "C"] do
      line = ~s|exec env LC_ALL=#{locale} "$(printf 'LEASH_TEST_\\377')=s3cret" "$@"|
      vm = start_vm([], prefix: Python.quote_all(["sh", "-c", line, "sh"]))

      code = """
      env = System.find_executable("env")
      port = Leash.open_port(env, [], [:binary, :exit_status, clear_env: true])
      #{VM.read_port()}
      text = read_port.(port)
      {elem(Leash.cmd(env, []), 0) =~ "s3cret", text =~ "s3cret", elem(Leash.cmd(env, [], env: :clear), 0) =~ "s3cret"}
      """

      assert {locale, VM.eval(vm, code)} == {locale, {true, false, false}}
    end
  end

  test "mistakes are named" do
    for {bad, text} <- [
          {[clear_env: ["A=B"]],
           ~s|a list of names (no "=", no NUL, not LEASH_RUN), got: ["A=B"]|},
          {[clear_env: ["LEASH_RUN"]], ~s|got: ["LEASH_RUN"]|},
          {[clear_env: "PATH"], ~s|expected true, false, or a list of names|},
          {[clear_env: ["A" | "B"]], ~s|got: ["A" \| "B"]|},
          {[clear_env: nil], "got: nil"},
          {[env: :clean], "or :clear, got: :clean"}
        ] do
      [{key, _value}] = bad

      for start <- [
            fn -> Worker.start_link([command: "true"] ++ bad) end,
            fn -> Leash.cmd("true", [], bad) end,
            fn -> Leash.stream!("true", [], bad) end,
            fn -> Leash.open_port("true", [], bad) end,
            fn -> :leash.cmd("true", [], bad) end
          ] do
        assert %Leash.OptionsError{key: ^key} = error = catch_error(start.())
        assert Exception.message(error) =~ text
      end
    end
  end
end
