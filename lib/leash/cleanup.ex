defmodule Leash.Cleanup do
  # Finds and ends processes by their tags: drives the native step machine.
  #
  # The native side looks, judges and signals, one pass a step, on a dirty scheduler. The waiting
  # happens here, in a process of its own. It lasts until a target's pidfd wakes the process or
  # the step's time is over.
  @moduledoc false

  alias Leash.{Native, Registry, Warden}

  # Within what `Leash.Shim.Escalation` gives the proof.
  @deadline_ms 5_000

  # The time that a killed shim needs to end, and the warden to end what the shim left.
  @shim_ms 1_000
  @word_ms 4_000

  # A hunt that failed has seen nothing. It starts again after so many milliseconds.
  @again_ms [50, 200, 800]

  @type spec :: map()
  @type report :: map()

  @doc "The spec that ends, with SIGKILL, what is left of workers of a living run."
  @spec of_workers(Leash.Run.t(), [pos_integer()]) :: spec()
  def of_workers(run, numbers) do
    %{
      kind: :workers,
      run_id: run.id,
      workers: numbers,
      # What a command kept also outlives the VM under these numbers. It is not theirs.
      outliving: Enum.filter(numbers, &Registry.detached?/1),
      attached: Enum.filter(numbers, &attached?/1),
      unmarked: Enum.filter(numbers, &unmarked?/1),
      deadline: @deadline_ms,
      run_dir: run.config.run_dir
    }
  end

  # A process that Leash did not start may be older than this VM.
  defp attached?(number), do: match?({:ok, %{kind: :attachment}}, Registry.fetch(number))

  # Only the environment identifies their processes.
  defp unmarked?(number), do: match?({:ok, %{mark?: false}}, Registry.fetch(number))

  @doc "The spec that ends, with SIGKILL, what is left of a detached tree of any run."
  @spec of_tree(Leash.Run.t(), Leash.Detached.tree()) :: spec()
  def of_tree(run, tree) do
    %{
      kind: :workers,
      run_id: tree.run_id,
      workers: [tree.worker],
      outliving: [tree.worker],
      adopted: {tree.start_ticks, tree.depth},
      deadline: @deadline_ms,
      run_dir: run.config.run_dir
    }
  end

  @doc """
  Returns whether all processes of this user were seen.

  If so, only the survivors are left of what a hunt can end. Under `hidepid`, other users'
  processes are not seen. Without `no_new_privs` one of them may descend from a worker (`sudo`).

  So this result frees a number or a record, which only this user's processes and hunts use. It
  does not prove the end of a tree. That takes `complete: true`.
  """
  @spec own_seen?(report()) :: boolean()
  def own_seen?(report), do: report.complete or report.incomplete_because == [:hidepid]

  @doc """
  Returns what the end of a hunt's process proves. `reason` is that of its `:DOWN` message.

  If not everything was seen, then finding nothing does not prove the end. The word of the warden
  that started the tree proves it. `warden` is `nil` for a tree that is not below its shim.
  """
  @spec verdict(term(), Native.fd() | nil) ::
          :gone | {:left, [Leash.Worker.survivor()]} | {:unproven, term()}
  def verdict({:shutdown, {:ok, %{survivors: []} = report}}, warden) do
    if report.complete or (warden != nil and report.word == warden),
      do: :gone,
      else: {:unproven, {:incomplete, report.incomplete_because}}
  end

  def verdict({:shutdown, {:ok, %{survivors: survivors}}}, _warden), do: {:left, survivors}
  def verdict({:shutdown, {:error, reason}}, _warden), do: {:unproven, reason}
  def verdict(crash, _warden), do: {:unproven, {:crashed, crash}}

  @doc "Runs a hunt and returns its report. Blocks at most until the hunt's own deadline."
  @spec run(spec()) :: {:ok, report()} | {:error, term()}
  def run(spec) do
    {pid, monitor} = start(spec)

    receive do
      {:DOWN, ^monitor, :process, ^pid, {:shutdown, result}} -> result
      {:DOWN, ^monitor, :process, ^pid, reason} -> {:error, {:crashed, reason}}
    end
  end

  @doc """
  Begins a hunt, after the end of the shim if there is one.

  `shim` is its pidfd, `:unknown` if there is no pidfd, and `nil` if no shim is waited for. At the
  end the caller gets `{:DOWN, monitor, :process, pid, {:shutdown, result}}`.

  The warden ends by descent what a killed shim left, so its word is asked for first. `:word` of
  the report names the warden that gave it.
  """
  @spec start(spec(), Native.fd() | :unknown | nil) :: {pid(), reference()}
  def start(spec, shim \\ nil) do
    # spawn, not spawn_link: the hunt for a dead worker's processes must not end with its caller.
    spawn_monitor(fn ->
      word = if ended?(shim), do: word(spec)

      with {:ok, report} <- hunt(spec, @again_ms) do
        exit({:shutdown, {:ok, Map.put(report, :word, word)}})
      else
        error -> exit({:shutdown, error})
      end
    end)
  end

  # The warden reports only on workers of this run that have had a shim.
  defp word(%{kind: :workers, workers: numbers, deadline: deadline} = spec) do
    if not is_map_key(spec, :adopted) and Enum.any?(numbers, &begun?/1),
      do: Warden.word(min(@word_ms, deadline))
  end

  defp word(_of_dead_runs), do: nil

  defp begun?(number), do: not match?({:ok, %{shim: nil}}, Registry.fetch(number))

  # The shim closes its descriptors before it has ended, and only at its end do its children
  # become the warden's (exit_notify in kernel/exit.c).
  defp ended?(nil), do: true

  defp ended?(:unknown), do: false

  defp ended?(fd) do
    if match?({:ok, _copy}, Native.monitor_end(fd, {:leash, :shim_ended})) do
      receive do
        {:leash, :shim_ended} -> true
      after
        @shim_ms -> false
      end
    else
      false
    end
  end

  defp hunt(spec, again) do
    case {once(spec), again} do
      {{:error, {:invalid, _key}} = wrong, _again} ->
        wrong

      {{:error, _failed}, [ms | again]} ->
        receive(after: (ms -> hunt(spec, again)))

      {result, _again} ->
        result
    end
  end

  defp once(spec) do
    with {:ok, hunt} <- Native.hunt_new(spec),
         {:ok, report} <- steps(hunt),
         do: proven(spec, report)
  end

  # An empty result frees the workers' numbers. Without descriptors it was not really seen.
  defp proven(%{kind: :workers}, %{survivors: [], incomplete_because: because} = report) do
    if :descriptors_exhausted in because,
      do: {:error, :descriptors_exhausted},
      else: {:ok, report}
  end

  defp proven(_spec, report), do: {:ok, report}

  defp steps(hunt) do
    case Native.hunt_step(hunt) do
      {:wait, milliseconds} ->
        receive do
          {:leash_hunt, _hunt, :ready} -> :ok
        after
          milliseconds -> :ok
        end

        steps(hunt)

      {:done, report} ->
        {:ok, report}

      {:error, reason} ->
        {:error, reason}
    end
  end
end
