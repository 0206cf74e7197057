defmodule Leash.Stdio.LogTest do
  # Serial: there is one Logger.
  use Leash.Test.Case, async: false

  alias Leash.OptionsError

  setup do
    nothing_is_listed_after()
    id = :"leash_log_test_#{System.unique_integer([:positive])}"
    :ok = :logger.add_handler(id, __MODULE__, %{config: self()})
    on_exit(fn -> :logger.remove_handler(id) end)
  end

  @doc false
  # A handler of `:logger`.
  def log(%{level: level, msg: msg, meta: meta}, %{config: pid}) do
    text = with {:string, text} <- msg, do: IO.chardata_to_string(text)
    send(pid, {:logged, level, text, meta})
  end

  # Runs a line of shell to its end. Returns what the log has of it, by stream.
  defp logged(line, options) do
    # It writes at once, and lives until it has been asked.
    {:ok, worker} = Worker.start_link([shell: line <> "; cat", stdin: :pipe] ++ options)
    os_pid = Worker.os_pid(worker)
    assert is_integer(os_pid)
    :ok = Worker.close_stdin(worker)
    assert_receive {:EXIT, ^worker, :normal}, 5_000
    {Enum.group_by(events(), fn {_level, _text, meta} -> meta.stream end), os_pid}
  end

  defp events do
    receive do
      {:logged, level, text, %{stream: _} = meta} -> [{level, text, meta} | events()]
      {:logged, _level, _text, _meta} -> events()
    after
      0 -> []
    end
  end

  @line "echo out; echo bad >&2"

  test "lines have levels, prefix and metadata as they say" do
    options = [level: :notice, stderr: :error, prefix: "gpu| ", metadata: [pool: :gpu]]
    log = [on_output: {:log, options}]
    {%{stdout: [out], stderr: [bad]}, _pid} = logged(@line, log)
    assert {:notice, "gpu| out", %{pool: :gpu}} = out
    assert {:error, "gpu| bad", %{pool: :gpu}} = bad
  end

  test "lines have the defaults of :log, and may be without a prefix" do
    for output <- [:log, {:log, []}] do
      {%{stdout: [out], stderr: [bad]}, _pid} = logged(@line, on_output: output)
      assert {:info, "sh: out", _meta} = out
      assert {:warning, "sh: bad", _meta} = bad
    end

    {%{stdout: [{:info, "out", _}]}, _pid} = logged(@line, on_output: {:log, prefix: ""})
  end

  test "on_stderr has a level of its own, under either name" do
    for {options, level} <- [{[level: :debug], :debug}, {[stderr: :alert, level: :debug], :alert}] do
      log = [on_output: {:log, level: :error}, on_stderr: {:log, options}]
      {%{stdout: [{:error, _, _}], stderr: [{stderr, _, _}]}, _pid} = logged(@line, log)
      assert stderr == level
    end
  end

  test "lines always name the worker, its group, its program and the stream" do
    for n <- 1..20, log <- [:log, {:log, metadata: [os_pid: 1, leash_name: :wrong]}] do
      options = [name: :"log_test_#{n}", group: {MyApp.Pool, n}, on_output: log]
      {%{stdout: [{_, _, out}], stderr: [{_, _, bad}]}, os_pid} = logged(@line, options)

      for {meta, stream} <- [{out, :stdout}, {bad, :stderr}] do
        assert %{stream: ^stream, os_pid: ^os_pid, leash_group: {MyApp.Pool, ^n}} = meta
        assert meta.leash_name == :"log_test_#{n}"
      end
    end
  end

  test "a label stands before the lines, and long lines go on behind a long prefix" do
    {%{stdout: [{_, "Embedder ␛: out", _}]}, _pid} = logged(@line, label: "Embedder \e")
    prefix = String.duplicate("p", 3_000)
    line = "head -c 9000 /dev/zero | tr '\\0' x"
    {%{stdout: events}, _pid} = logged(line, on_output: {:log, prefix: prefix})
    assert length(events) == 2
    for {_, text, _} <- events, do: assert(byte_size(text) < 8_096)
  end

  test "what is no such option is refused with a sentence" do
    for {options, words} <- [
          {[level: :loud], "value for :level option in :on_output"},
          {[prefix: 1], "a string of UTF-8"},
          {[metadata: :x], "a keyword list"},
          {[levle: :info], "did you mean :level?"},
          {:info, "a keyword list"}
        ] do
      error =
        assert_raise OptionsError, fn ->
          Worker.start_link(command: "true", on_output: {:log, options})
        end

      assert Exception.message(error) =~ words
    end
  end

  test "Erlang gives the options as a map or a proplist of charlists" do
    for log <- [
          %{level: :notice, prefix: ~c"é ", metadata: %{a: 1}},
          [level: :notice, prefix: ~c"é "]
        ] do
      {:ok, worker} = :leash.start_link(%{shell: ~c"echo out", on_output: {:log, log}})
      assert_receive {:EXIT, ^worker, :normal}, 5_000
      assert [{:notice, "é out", _meta}] = events()
    end
  end
end
