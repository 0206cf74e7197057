defmodule Leash.Probe.WaitForTest do
  use Leash.Test.Case, async: false

  alias Leash.OptionsError
  alias Leash.Test.{Name, Ports}

  setup do
    nothing_is_listed_after()
    %{decoy: start_decoy("beside what waits"), dir: tmp_dir!()}
  end

  # Starts in a process of its own, and returns once the Worker waits.
  defp waiting(options) do
    carrier = new_carrier()
    group = options[:group] || Name.unique("waits")
    on_exit(fn -> Leash.stop_all(group, deadline: 0) end)
    options = [group: group] ++ command({:sh, "exec sleep 60"}, carrier) ++ options

    task =
      Task.async(fn ->
        Process.flag(:trap_exit, true)
        started = Worker.start_link(options)
        with {:ok, pid} <- started, do: Process.unlink(pid)
        started
      end)

    assert_eventually(fn ->
      match?([%{os_pid: nil}], for(row <- Leash.list(usage: false), row.group == group, do: row))
    end)

    assert Carrier.members(carrier) == []
    {carrier, task}
  end

  defp runs(carrier, task) do
    assert {:ok, worker} = Task.await(task, 10_000)
    assert_eventually(fn -> Carrier.members(carrier) != [] end)
    assert {:ok, _exit} = Worker.stop(worker)
    assert_gone(carrier)
  end

  test "a file, a port, a Unix socket and a function are waited for in turn", %{
    decoy: decoy,
    dir: dir
  } do
    {file, socket} = {Path.join(dir, "file"), Path.join(dir, "socket")}
    {port, answers} = {Ports.free(), :counters.new(1, [])}

    targets = [
      {:file, file},
      {:tcp, {"localhost", port}},
      {:unix, socket},
      fn -> :counters.get(answers, 1) == 1 end
    ]

    {carrier, task} = waiting(wait_for: targets)
    File.touch!(file)
    assert Task.yield(task, 100) == nil
    {:ok, tcp} = :gen_tcp.listen(port, ip: {127, 0, 0, 1}, reuseaddr: true)
    assert Task.yield(task, 100) == nil
    {:ok, unix} = :gen_tcp.listen(0, ifaddr: {:local, socket})
    assert Task.yield(task, 100) == nil
    assert Carrier.members(carrier) == []
    :counters.add(answers, 1, 1)
    runs(carrier, task)
    Enum.each([tcp, unix], &:gen_tcp.close/1)
    assert_unharmed(decoy)
  end

  test "the first that is missing when the time is over is named, and nothing was started", %{
    dir: dir
  } do
    missing = {:file, Path.join(dir, "missing")}
    {carrier, task} = waiting(wait_for: [{:file, dir}, missing], wait_timeout: 300)
    assert Task.await(task) == {:error, {:wait_timeout, missing}}
    assert Carrier.members(carrier) == []
    assert Leash.Error.format({:wait_timeout, missing}) =~ "missing"
  end

  test "a stop of the group ends the wait", %{dir: dir, decoy: decoy} do
    group = Name.unique("waits")
    {carrier, task} = waiting(wait_for: {:file, Path.join(dir, "never")}, group: group)
    {us, {:ok, [_one]}} = :timer.tc(fn -> Leash.stop_all(group) end)
    assert us < 3_000_000
    assert Task.await(task) == {:error, :stopping}
    assert Carrier.members(carrier) == []
    assert_unharmed(decoy)
  end

  test "a parent that is killed takes the wait along", %{dir: dir} do
    {carrier, task} = waiting(wait_for: fn -> File.exists?(Path.join(dir, "never")) end)
    [%{pid: worker}] = Leash.list(usage: false)
    monitor = Process.monitor(worker)
    Task.shutdown(task, :brutal_kill)
    assert_receive {:DOWN, ^monitor, :process, ^worker, _reason}, 5_000
    assert Carrier.members(carrier) == []
  end

  test "what cannot be waited for is refused" do
    for wrong <- [
          {:tcp, 0},
          {:tcp, {"", 1}},
          {:tcp, {:host, 1}},
          {:unix, "relative"},
          {:unix, "/" <> String.duplicate("x", 107)},
          {:file, ""},
          {:file, ~c"x"},
          [{:file, "/x"} | :more],
          [{:udp, 1}],
          fn _ -> true end
        ] do
      options = [command: "sleep", args: ["60"], wait_for: wrong]
      assert %OptionsError{key: :wait_for} = error = catch_error(Worker.start_link(options))
      assert Exception.message(error) =~ "{:file, path}"
    end
  end

  test "Erlang waits for the same", %{dir: dir} do
    target = {:file, to_charlist(Path.join(dir, "never"))}
    options = %{shell: "sleep 60", wait_for: [target], wait_timeout: 50}
    assert {:error, {:wait_timeout, {:file, path}}} = :leash.start_link(options)
    assert path == Path.join(dir, "never")
    options = %{options | wait_for: {:unix, to_charlist(dir)}}
    assert {:error, {:wait_timeout, {:unix, ^dir}}} = :leash.start_link(options)
  end
end
