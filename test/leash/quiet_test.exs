defmodule Leash.QuietTest do
  @moduledoc "The log of an end: nothing for an end in order, and little for a crash."

  # There is one Logger.
  use Leash.Test.Case, async: false

  import ExUnit.CaptureLog

  alias Leash.Test.{Decoys, Script}

  @moduletag timeout: 120_000

  @options [command: "sleep", args: ["100"]]

  @speakers for module <- [Worker.Server, Leash.Stdio.Reader, Leash.Stdio.Writer],
                do: {module, :init, 1}

  # A reader beside the worker, which sends no reports of its own either.
  defp worker_options, do: [on_output: fn _stream, _data -> :ok end] ++ @options

  # Returns the log until nothing is left of what the function started.
  defp logged(fun) do
    {rows, processes} = {rows(), speakers()}

    capture_log(fn ->
      fun.()
      assert_eventually(fn -> rows() -- rows == [] end, 15_000)
      # A process may log its last message after its tree is gone.
      assert_eventually(fn -> speakers() -- processes == [] end, 15_000)
    end)
  end

  defp rows, do: for(row <- Leash.list(), do: row.worker)

  defp speakers do
    for pid <- Process.list(),
        {:dictionary, dictionary} <- [Process.info(pid, :dictionary)],
        dictionary[:"$initial_call"] in @speakers,
        do: pid
  end

  defp supervised(options, more \\ []) do
    child = Supervisor.child_spec({Worker, options}, more)
    {:ok, supervisor} = Supervisor.start_link([child], strategy: :one_for_one)
    supervisor
  end

  defp owner(act) do
    test = self()

    pid =
      spawn(fn ->
        send(test, {:started, Worker.start_link(worker_options())})
        act.()
      end)

    assert_receive {:started, {:ok, _worker}}, 5_000
    pid
  end

  describe "nothing is logged when" do
    test "a supervisor stops" do
      assert logged(fn -> Supervisor.stop(supervised(worker_options())) end) == ""
    end

    test "a supervisor kills its worker, or the Worker process is killed" do
      assert logged(fn ->
               Supervisor.stop(supervised(worker_options(), shutdown: :brutal_kill))
             end) == ""

      assert logged(fn ->
               {:ok, worker} = Worker.start_link(worker_options())
               Process.exit(worker, :kill)
             end) == ""
    end

    test "a Worker process is killed while a write waits" do
      assert logged(fn ->
               {:ok, worker} = Worker.start_link([stdin: :pipe] ++ worker_options())
               data = :binary.copy("x", 1_000_000)
               writing = Task.async(fn -> Worker.write(worker, data, :infinity) end)

               # The call was sent, and the worker has taken it.
               assert_eventually(fn ->
                 Process.info(writing.pid, [:status, :monitors]) ==
                   [status: :waiting, monitors: [process: worker]] and
                   Process.info(worker, :message_queue_len) == {:message_queue_len, 0}
               end)

               Process.exit(worker, :kill)
               assert Task.await(writing) == {:error, :epipe}
             end) == ""
    end

    test "an owner exits with :normal, :shutdown or {:shutdown, term}" do
      for reason <- [:normal, :shutdown, {:shutdown, :done}],
          do: assert(logged(fn -> owner(fn -> exit(reason) end) end) == "")
    end

    test "the caller of a command or stream is killed, or its port's owner" do
      for start <- [
            fn -> Leash.cmd("sleep", ["100"]) end,
            fn -> "sleep" |> Leash.stream!(["100"]) |> Stream.run() end,
            fn -> Leash.open_port("sleep", ["100"]) && Process.sleep(:infinity) end
          ] do
        assert logged(fn ->
                 before = rows()
                 caller = spawn(start)
                 assert_eventually(fn -> rows() -- before != [] end)
                 Process.exit(caller, :kill)
               end) == ""
      end
    end

    test "it is stopped, alone or with its group" do
      assert logged(fn ->
               {:ok, worker} = Worker.start_link(worker_options())
               assert {:ok, %Exit{}} = Worker.stop(worker)
               {:ok, _worker} = Worker.start_link([group: :quiet] ++ worker_options())
               assert {:ok, [_stopped]} = Leash.stop_all(:quiet)
             end) == ""
    end
  end

  describe "a crash report" do
    test "says which worker it was, and nothing of its options and input" do
      test = self()

      log =
        logged(fn ->
          owner =
            spawn(fn ->
              {:ok, worker} =
                Worker.start_link(
                  command: "sleep",
                  args: ["100"],
                  arg0: "hidden-name",
                  env: %{"TOKEN" => "hidden-token"},
                  stdin: :pipe,
                  on_output: fn _stream, _data -> :ok end
                )

              :ok = Worker.write(worker, "hidden-input")
              send(test, :written)
              Process.sleep(:infinity)
            end)

          assert_receive :written, 10_000
          Process.exit(owner, :oops)
        end)

      assert log =~ "oops"
      assert log =~ ~s(label: "sleep")
      refute log =~ "hidden"
      assert byte_size(log) < 600
    end

    test "of every process of ours is as short" do
      {:ok, worker} = Worker.start_link([stdin: :pipe] ++ worker_options())
      {:links, links} = Process.info(worker, :links)
      servers = for pid <- links, is_pid(pid), pid != self(), do: pid
      named = [Leash.Reaper, Leash.Control, Leash.Warden, Leash.Guard]
      assert length(servers) >= 2

      for server <- [worker | servers] ++ named do
        text =
          server |> :sys.get_status() |> inspect(limit: :infinity, printable_limit: :infinity)

        refute text =~ "on_output", "#{inspect(server)} shows its options"
        refute text =~ "run_dir:", "#{inspect(server)} shows the run"
        assert byte_size(text) < 4_000
      end

      assert {:ok, %Exit{}} = Worker.stop(worker)
    end
  end

  # Runs a script without a supervisor in a VM of its own. Returns its exit status and its output.
  defp script(code) do
    carrier = new_carrier()

    paths =
      for path <- :code.get_path(),
          path = to_string(path),
          String.ends_with?(path, "/leash/ebin"),
          do: ["-pa", path]

    words = List.flatten(["elixir", paths, "-e", code])
    log = Path.join(tmp_dir!(), "log")
    line = "echo ready; exec #{Python.quote_all(words)} >#{log} 2>&1"
    {port, _identity, []} = Script.start(line, carrier, [{"LEASH_RUN_DIR", Decoys.run_dir()}])
    status = Script.await_exit(port, 60_000)
    assert_gone(carrier, 5_000)
    {status, File.read!(log)}
  end

  @begin """
  {:ok, _apps} = Application.ensure_all_started(:leash)
  {:ok, _worker} = Leash.Worker.start_link(command: "sleep", args: ["100"])
  {:ok, _supervisor} =
    Supervisor.start_link([{Leash.Worker, command: "sleep", args: ["101"]}], strategy: :one_for_one)
  """

  describe "a VM with workers outside of any application" do
    @tag :slow
    test "exits with 0 and in silence at System.stop" do
      assert script(@begin <> "System.stop(0); Process.sleep(:infinity)") == {0, ""}
    end

    @tag :slow
    test "exits with 0 and in silence at SIGTERM" do
      {status, log} =
        script(@begin <> "System.cmd(\"kill\", [System.pid()]); Process.sleep(:infinity)")

      assert status == 0
      # The runtime's own notice.
      assert log |> String.split("\n", trim: true) |> Enum.reject(&(&1 =~ "SIGTERM received")) ==
               []
    end

    test "tells a linked owner :shutdown when the application stops" do
      code = """
      Process.flag(:trap_exit, true)
      {:ok, _apps} = Application.ensure_all_started(:leash)
      {:ok, worker} = Leash.Worker.start_link(command: "sleep", args: ["100"])
      :ok = Application.stop(:leash)
      receive do
        {:EXIT, ^worker, reason} -> IO.inspect(reason, label: "reason")
      end
      """

      {status, log} = script(code)
      assert status == 0
      assert log =~ "reason: :shutdown"
      refute log =~ "[error]"
    end
  end
end
