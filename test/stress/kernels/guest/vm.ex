defmodule Leash.Trial.VM do
  @moduledoc """
  The VM under trial. Its directory is `$TRIAL_VM`:

  * `workers`: a line `LABEL<TAB>OPTIONS<TAB>COMMAND` for each worker that it starts.
  * `log`: what it says, a line each. `up RUN PID START_MS SWEEP_MS` is the end of its start.
  * `order`: a command from the judge, such as `stop LABEL`. The answer is the line `done …`.
  """

  # The judge renames `order` into place, so that it is whole when it is seen.
  @look_every 20

  @doc "Runs until it is told to halt, or is killed."
  @spec main() :: no_return()
  def main do
    dir = System.fetch_env!("TRIAL_VM")
    began = System.monotonic_time(:millisecond)
    {:ok, _apps} = Application.ensure_all_started(:logger)
    start_leash(dir)
    took = System.monotonic_time(:millisecond) - began
    owners = dir |> Path.join("workers") |> File.stream!() |> Map.new(&start(dir, &1))
    say(dir, "up #{Leash.run_id()} #{System.pid()} #{took} #{swept_ms()}")
    serve(dir, owners)
  end

  defp start_leash(dir) do
    case Application.ensure_all_started(:leash) do
      {:ok, _apps} ->
        :ok

      {:error, reason} ->
        say(dir, "failed #{inspect(reason)}")
        :erlang.halt(1)
    end
  end

  # A sweep that could not begin has no report.
  defp swept_ms do
    case Leash.Sweep.last() do
      nil -> -1
      report -> report.elapsed_ms
    end
  end

  # Each worker has an owner of its own, which can be ended.
  defp start(dir, line) do
    [label, text, command] = line |> String.trim_trailing("\n") |> String.split("\t", parts: 3)
    {options, _bound} = Code.eval_string(text)
    main = self()

    owner =
      spawn(fn ->
        Process.flag(:trap_exit, true)

        case start_worker(dir, label, command, options) do
          {:ok, worker} ->
            send(main, {:started, label, worker})
            own(dir, label, worker)

          {:error, reason} ->
            say(dir, "refused #{label} #{inspect(reason)}: #{Leash.Error.format(reason)}")
            send(main, {:started, label, nil})
        end
      end)

    receive do
      {:started, ^label, worker} -> {label, {owner, worker}}
    end
  end

  defp start_worker(dir, label, command, options) do
    own = [
      command: "sh",
      args: ["-c", command],
      stop: [sigterm: 500],
      on_output: fn _stream, text -> say(dir, "out #{label} #{inspect(text)}") end
    ]

    Leash.Worker.start_link(own ++ options)
  end

  defp own(dir, label, worker) do
    receive do
      {:EXIT, ^worker, reason} -> say(dir, "exit #{label} #{inspect(reason)}")
      :end -> exit(:normal)
    end

    own(dir, label, worker)
  end

  defp serve(dir, owners) do
    order = Path.join(dir, "order")

    case File.read(order) do
      {:ok, text} ->
        File.rm!(order)
        say(dir, "done #{text |> String.split() |> obey(owners)}")

      {:error, :enoent} ->
        Process.sleep(@look_every)
    end

    serve(dir, owners)
  end

  defp obey(["stop"], owners) do
    inspect(for {label, {_owner, worker}} <- owners, do: {label, Leash.Worker.stop(worker)})
  end

  defp obey(["stop_all"], _owners), do: inspect(Leash.stop_all(:all, deadline: 20_000))
  defp obey(["owners_exit"], owners), do: each_owner(owners, &send(&1, :end))
  defp obey(["owners_killed"], owners), do: each_owner(owners, &Process.exit(&1, :kill))

  defp obey(["workers_killed"], owners) do
    inspect(for {_label, {_owner, worker}} <- owners, do: Process.exit(worker, :kill))
  end

  defp obey(["application_stop"], _owners), do: inspect(Application.stop(:leash))
  defp obey(["report"], _owners), do: inspect(Leash.sweep(mode: :report), limit: :infinity)
  defp obey(["sweep"], _owners), do: inspect(Leash.sweep(), limit: :infinity)
  defp obey(["capabilities"], _owners), do: inspect(Leash.capabilities(), limit: :infinity)
  defp obey(["halt"], _owners), do: System.halt(0)
  defp obey(["init_stop"], _owners), do: inspect(:init.stop())

  defp each_owner(owners, fun) do
    inspect(for {label, {owner, _worker}} <- owners, do: {label, fun.(owner)})
  end

  defp say(dir, line), do: File.write!(Path.join(dir, "log"), line <> "\n", [:append])
end
