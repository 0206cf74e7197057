defmodule Leash.Test.Guest do
  @moduledoc """
  What runs inside a second VM: workers, and commands from its stdin, a line each.

  It answers in lines: `run ID`, `worker LABEL OS_PID SHIM_PID`, `tree LABEL PID…` (from the fixture's
  `ready` line), `ready`, and `done …` for a command. With `mode: :port` the workers are bare ports, to see
  what the same faults leave without the library.
  """

  # No guest is needed for longer; whatever happens to the tests, it ends.
  @life 600_000

  @doc "The entry point; the specification is a term in the environment."
  @spec main() :: no_return()
  def main do
    {:ok, _timer} = :timer.apply_after(@life, System, :halt, [3])
    spec = "GUEST_SPEC" |> System.fetch_env!() |> Base.decode64!() |> :erlang.binary_to_term()
    mode = Map.get(spec, :mode, :leash)
    if mode == :leash, do: start_leash(spec)

    spec.workers
    |> Enum.map(fn {label, options} -> {label, begin(mode, label, options)} end)
    |> Map.new(fn {label, owner} -> {label, await(label, owner)} end)
    |> tap(fn _workers -> say("ready") end)
    |> serve()
  end

  defp start_leash(spec) do
    for {key, value} <- Map.get(spec, :env, []), do: Application.put_env(:leash, key, value)
    {:ok, _apps} = Application.ensure_all_started(:leash)
    say("run #{Leash.run_id()}")
  end

  ## Workers, each with an owner of its own

  defp begin(mode, label, options) do
    guest = self()

    spawn(fn ->
      worker = start(mode, guest, label, options)
      send(guest, {:started, self(), worker})
      own(mode, guest, label)
    end)
  end

  defp start(:leash, guest, label, options) do
    said = fn _stream, text -> send(guest, {:said, label, text}) end
    {:ok, worker} = Leash.Worker.start_link([on_output: said, ready: ~r/^ready/] ++ options)
    worker
  end

  defp start(:port, _guest, _label, options) do
    Port.open({:spawn_executable, System.find_executable(options[:command])}, [
      :binary,
      args: options[:args]
    ])
  end

  defp own(mode, guest, label) do
    receive do
      :exit ->
        :ok

      :raise ->
        raise "the owner of #{label} crashes on purpose"

      {port, {:data, text}} when is_port(port) ->
        send(guest, {:said, label, text})
        own(mode, guest, label)
    end
  end

  defp await(label, owner) do
    receive do
      {:started, ^owner, worker} ->
        with pid when is_pid(pid) <- worker do
          info = Leash.Worker.info(pid)
          say("worker #{label} #{info.os_pid} #{info.shim_pid}")
        end

        await_tree(label, "")
        %{owner: owner, worker: worker}
    after
      30_000 -> raise "worker #{label} did not start"
    end
  end

  defp await_tree(label, seen) do
    case Regex.run(~r/^ready((?: \d+)*)\n/m, seen) do
      [_all, pids] ->
        say("tree #{label}#{pids}")

      nil ->
        receive do
          {:said, ^label, text} -> await_tree(label, seen <> text)
        after
          30_000 -> raise "worker #{label} was not ready: #{inspect(seen)}"
        end
    end
  end

  ## Commands

  defp serve(workers) do
    case IO.gets("") do
      line when is_binary(line) -> line |> String.split() |> command(workers)
      _end_of_input -> System.halt(0)
    end

    serve(workers)
  end

  defp command(["flood", label], workers) do
    # More than a pipe holds, from a process that stays in the call.
    text = :binary.copy("x", 300_000)

    case workers[label].worker do
      port when is_port(port) -> spawn(fn -> Port.command(port, text) end)
      worker -> spawn(fn -> Leash.Worker.write(worker, text, :infinity) end)
    end

    say("done flood")
  end

  defp command(["stop"], workers) do
    for {label, %{worker: worker}} <- workers do
      spawn(fn ->
        result = if is_port(worker), do: Port.close(worker), else: Leash.Worker.stop(worker)
        say("stopped #{label} #{inspect(result)}")
      end)
    end
  end

  defp command(["owner_exits"], workers), do: owners(workers, &send(&1, :exit))
  defp command(["owner_raises"], workers), do: owners(workers, &send(&1, :raise))
  defp command(["owner_killed"], workers), do: owners(workers, &Process.exit(&1, :kill))

  defp command(["worker_killed"], workers) do
    for {_label, %{worker: pid}} <- workers, is_pid(pid), do: Process.exit(pid, :kill)
  end

  defp command(["port_closed"], workers) do
    owners = MapSet.new(workers, fn {_label, %{worker: worker}} -> worker end)

    for port <- Port.list(),
        {:connected, pid} <- [Port.info(port, :connected)],
        port in owners or pid in owners,
        do: Port.close(port)
  end

  defp command(["halt"], _workers), do: System.halt(0)
  defp command(["init_stop"], _workers), do: :init.stop()
  defp command(["abort"], _workers), do: :erlang.halt(:abort)
  defp command(["app_stop"], _workers), do: say("done #{inspect(Application.stop(:leash))}")

  # Runs code of the test's own; what it returns is printed.
  defp command(["eval", code], _workers) do
    {result, _binding} = code |> Base.decode64!() |> Code.eval_string()
    say("done #{result |> :erlang.term_to_binary() |> Base.encode64()}")
  end

  defp owners(workers, act), do: for({_label, %{owner: owner}} <- workers, do: act.(owner))

  defp say(line), do: IO.puts(line)
end
