defmodule Leash.Worker.Launch do
  # Takes options to a running shim: first a number, then the start by the warden.
  @moduledoc false

  alias Leash.{Cgroup, Ladder, Reaper, Registry, Run, Shim, Text, Warden}
  alias Leash.Shim.Handle
  alias Leash.Attachment.Attached
  alias Leash.Shim.Escalation
  alias Leash.Probe.{Readiness, WaitFor}
  alias Leash.Worker.Claims

  @type t :: %{
          run: Run.t(),
          number: pos_integer(),
          label: String.t(),
          options: map(),
          started: Warden.started()
        }

  @doc """
  Starts the shim. The calling process owns the number and the descriptors, which end with it.

  `owner` is the process whose end also ends the calling one. `number` comes from `register/4`, or
  is nil.
  """
  @spec run(map(), Registry.kind(), pid() | nil, pos_integer() | nil) ::
          {:ok, t()} | {:error, term()}
  def run(options, kind, owner, number \\ nil) do
    with {:error, :not_running} <- launch(options, kind, owner, number),
         do: {:error, not_running(Run.fetch())}
  end

  # A system without runs has no table of workers either.
  defp not_running({:error, reason}), do: reason
  defp not_running({:ok, _run}), do: :not_running

  @doc "Takes a number for a worker that starts later. `more` goes into its row."
  @spec register(map(), Registry.kind(), pid() | nil, map()) ::
          {:ok, pos_integer()} | {:error, term()}
  def register(options, kind, owner, more \\ %{}) do
    %{
      kind: kind,
      label: label(options),
      name: options.name,
      stop: options.stop,
      group: options.group,
      mark?: options[:mark] != false,
      cgroup: if(options[:cgroup], do: Cgroup.kind(options)),
      on_crash: options.on_crash,
      owner: owner,
      claims: claims(options),
      outlives: if(options.on_exit == :detach, do: :own)
    }
    |> Map.merge(more)
    |> Reaper.register()
  end

  defp launch(options, kind, owner, number) do
    # `Leash.stop_all/2` must not kill the caller of a command, so it cancels the start instead.
    cancel = if kind == :command, do: :erlang.alias()

    with :ok <- endable(options),
         {:ok, number} <- registered(options, kind, owner, number, cancel),
         {:error, reason} <- numbered(options, number, label(options), cancel, owner) do
      Reaper.release(number)
      {:error, reason}
    end
  end

  defp registered(options, kind, owner, nil, cancel),
    do: register(options, kind, owner, %{cancel: cancel})

  defp registered(_options, _kind, _owner, number, _cancel), do: {:ok, number}

  defp numbered(options, number, label, cancel, owner) do
    with :ok <- waited(options, label, owner),
         # Not earlier: a predecessor may have listened there until now.
         :ok <- free(options.ready),
         {:ok, run} <- Run.fetch(),
         :ok <- Run.note_mark(run, number, options),
         options = Run.with_flag(run, number, options),
         :ok <- record(run, number, options),
         {:ok, options} <- grouped(run, number, options),
         {:ok, started} <- start(run, number, options, cancel) do
      {:ok, %{run: run, number: number, label: label, options: options, started: started}}
    end
  end

  @doc """
  Waits until an ending worker is gone, for the longest time that may take.

  Returns false if the worker is not ending, or still there.
  """
  @spec until_gone(pid()) :: boolean()
  def until_gone(pid) do
    case Registry.of_process(pid) do
      {:ok, row} ->
        (row.tree == :gone or Registry.ending?(row)) and
          down?(pid, Escalation.total(Ladder.duration(row.stop)))

      # Its end has not reached the table yet, or it is not a worker of this run.
      :error ->
        node(pid) == node() and not Process.alive?(pid)
    end
  end

  defp down?(pid, ms) do
    monitor = Process.monitor(pid)

    receive do
      {:DOWN, ^monitor, :process, _pid, _reason} -> true
    after
      ms ->
        Process.demonitor(monitor, [:flush])
        false
    end
  end

  # The Reaper removes it, also if the start fails.
  defp grouped(run, number, %{cgroup: group} = options) when group != nil,
    do: Cgroup.make(run, number, options)

  defp grouped(_run, _number, options), do: {:ok, options}

  defp record(run, number, %{attach: attach}), do: Attached.record(run, number, attach)
  defp record(_run, _number, _options), do: :ok

  # Most programs name nothing that only one tree can have.
  defp claims(%{name: nil, ready: nil, stdout: stdout, stderr: stderr, health: nil} = options)
       when is_atom(stdout) and is_atom(stderr) and not is_map_key(options, :files),
       do: []

  defp claims(options), do: Claims.of(options)

  defp waited(%{wait_for: [_ | _] = targets} = options, label, owner),
    do: WaitFor.run(targets, options.wait_timeout, label, owner)

  defp waited(_options, _label, _owner), do: :ok

  # A listener at that port may be an ending tree of this run without a claim for the port.
  defp free(nil), do: :ok

  defp free(ready) do
    with {:error, {:port_in_use, _port}} = refused <- Readiness.free(ready) do
      case Reaper.await_ending() do
        :gone -> Readiness.free(ready)
        :none -> refused
      end
    end
  end

  # A tree that outlives its worker can be ended only by a signal to its shim.
  defp endable(%{on_exit: :detach}),
    do: if(Handle.possible?(), do: :ok, else: {:error, :no_pidfd})

  defp endable(_options), do: :ok

  defp label(%{label: label}) when label != nil, do: Text.printable(label)
  defp label(%{name: nil, command: command}), do: command |> Path.basename() |> Text.printable()
  defp label(%{name: name}), do: inspect(name)

  defp start(run, number, options, cancel) do
    began = System.monotonic_time(:millisecond)
    request = run |> Shim.request(number, options) |> Map.put(:cancel, cancel)
    started = Warden.start_shim(request, options.start_timeout)
    :ok = unalias(cancel)

    with {:error, reason} <- started do
      # A shim that is started later finds its channel hung up, and starts nothing.
      Registry.change(number, tree: :gone)

      {:error,
       failure(reason, System.monotonic_time(:millisecond) - began, options.start_timeout)}
    end
  end

  # From here on, nothing cancels the start.
  defp unalias(nil), do: :ok

  defp unalias(cancel) do
    _ = :erlang.unalias(cancel)

    receive do
      {^cancel, :cancel} -> :ok
    after
      0 -> :ok
    end
  end

  defp failure(reason, _took, _most) when reason in [:not_running, :stopping], do: reason
  # The start timeout was shorter than the wait for a warden.
  defp failure(:no_warden, took, most) when took >= most, do: :start_timeout
  defp failure(:no_warden, _took, _most), do: :no_warden
  defp failure({:pty, _posix} = reason, _took, _most), do: reason
  defp failure(reason, _took, _most), do: {:shim, reason}
end
