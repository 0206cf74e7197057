defmodule Leash.Situations.ProcessServerTest do
  @moduledoc """
  A server of processes, `run --on-exit WHAT -- COMMAND`. The tests show what happens to the
  processes of its commands when a command is over, and when the server ends.
  """

  # Serial: the sweeps of its VMs look at every process.
  use Leash.Test.Case, async: false

  @moduletag :slow

  @moduletag timeout: 120_000

  # A launcher, like `pg_ctl start`: it prints the number of its daemon, and exits.
  @launcher "setsid sh -c 'echo $$; exec sleep 300 >/dev/null 2>&1 </dev/null' &"

  setup do: {:ok, dir: tmp_dir!(), decoy: start_decoy("beside a process server")}

  # Runs `run --on-exit WHAT -- LAUNCHER`; returns the pid of the daemon.
  defp run(server, on_exit) do
    code = "Leash.cmd(#{inspect(@launcher)}, [], shell: true, on_exit: #{inspect(on_exit)})"
    {pid, 0} = VM.eval(server, code)
    pid |> String.trim() |> String.to_integer()
  end

  defp serve(label), do: [{label, [command: "sh", args: ["-c", service()], stop: [sigterm: 500]]}]

  # A command that does not exit by itself.
  defp service, do: "setsid sleep 300 & echo ready $$ $!; while :; do sleep 0.05; done"

  defp end_server(server, :stop_in_order), do: VM.command(server, "init_stop")
  defp end_server(server, signal), do: VM.signal(server, signal)

  for how <- [:stop_in_order, "TERM", "KILL"] do
    @how how

    test "--on-exit stop: nothing is left of a command when the server ends by #{how}", context do
      server = start_vm(serve("web") ++ serve("db"), run_dir: context.dir)
      processes = Enum.concat(Map.values(server.trees)) ++ VM.shims(server)
      assert length(processes) == 6
      assert Enum.all?(processes, &Observer.alive?/1)
      end_server(server, @how)
      assert_gone(server.carrier, 10_000)
      refute Enum.any?(processes, &Observer.alive?/1)
      assert_unharmed(context.decoy)
    end
  end

  test "--on-exit stop: the daemon of a launcher ends with it", context do
    server = start_vm([], run_dir: context.dir)
    daemon = run(server, :stop)
    assert Observer.identity(daemon) == nil
    assert_unharmed(context.decoy)
  end

  for how <- [:stop_in_order, "TERM", "KILL"] do
    @how how

    test "--on-exit keep: it outlives the launcher and a server that ends by #{how}, and the next one's sweep",
         context do
      server = start_vm(serve("web"), run_dir: context.dir)
      pid = run(server, :keep)
      daemon = Observer.identity(pid)
      on_exit(fn -> Observer.signal(daemon, "KILL") end)
      assert Observer.alive?(daemon)
      end_server(server, @how)
      # Nothing else of the server is left but the shim of the kept daemon.
      shim = pid |> Observer.parent() |> Observer.identity()
      assert [_program, "--run-id=" <> _run | _options] = Observer.argv(elem(shim, 0))
      kept = Enum.sort([daemon, shim])
      assert_eventually(fn -> Enum.sort(Carrier.members(server.carrier)) == kept end, 10_000)

      next = start_vm([], run_dir: context.dir)
      assert {:ok, report} = VM.eval(next, "Leash.sweep()")
      assert %{action: :kept, why: why} = match_of(report, daemon)
      assert to_string(why) =~ "outlives"
      assert Observer.alive?(daemon)
      assert_unharmed(context.decoy)
    end
  end

  for how <- [:stop_in_order, "TERM", "KILL"] do
    @how how

    test "--on-exit detach: it outlives a server that ends by #{how} with all its children, and the next one takes it over",
         context do
      server = start_vm([], run_dir: context.dir)
      log = Path.join(context.dir, "web.log")

      code = """
      {:ok, worker} =
        Leash.Worker.start_link(
          shell: #{inspect(service())}, name: :web, on_exit: :detach, stdout: {:file, #{inspect(log)}},
          stderr: :stdout, stop: [sigterm: 500])

      Process.unlink(worker)
      Leash.Worker.os_pid(worker)
      """

      web = server |> VM.eval(code) |> Observer.identity()
      assert_eventually(fn -> match?({:ok, "ready " <> _}, File.read(log)) end)
      # The shell, the sleep that it started, and their shim.
      members = Carrier.members(server.carrier) -- [server.identity]
      assert web in members and length(members) >= 3
      end_server(server, @how)
      assert_eventually(fn -> not Observer.alive?(server.identity) end, 10_000)

      next = start_vm([], run_dir: context.dir)
      assert {:ok, _report} = VM.eval(next, "Leash.sweep()")
      assert Observer.alive?(web)
      {web_pid, _ticks} = web
      adopt = "{:ok, worker} = Leash.Worker.adopt(:web); Leash.Worker.os_pid(worker)"
      assert VM.eval(next, adopt) == web_pid
      stop = "[%{pid: worker}] = Leash.list(); {:ok, _exit} = Leash.Worker.stop(worker); :stopped"
      assert VM.eval(next, stop) == :stopped
      assert_gone(server.carrier)
      assert_unharmed(context.decoy)
    end
  end
end
