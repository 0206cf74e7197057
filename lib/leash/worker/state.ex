defmodule Leash.Worker.State do
  # What a Worker process knows of its tree. `phase` is where the tree is in its life:
  #
  #   :launching → :running → :ending (asked to) → :hunting (the shim is gone without proof)
  #              → :draining (the tree is gone, output is still on its way) → :done
  @moduledoc false

  alias Leash.{Attachment, Guard, Native, Posix, Reaper, Run, Warden, Workers}
  alias Leash.Shim.Escalation
  alias Leash.Worker.Client

  @type phase :: :launching | :running | :ending | :hunting | :draining | :done

  @type t :: %{
          run: Run.t(),
          number: pos_integer(),
          client: Client.t() | nil,
          attachment: Attachment.t() | nil,
          options: map(),
          label: String.t(),
          channel: Native.fd() | nil,
          ends: %{optional(:stdin | :stdout | :stderr) => Native.fd() | nil},
          warden: Native.fd(),
          shim_pid: pos_integer() | nil,
          shim_fd: Native.fd() | nil,
          os_pid: pos_integer() | nil,
          mark: :set | :off | :no_depth | {:error, pos_integer()} | nil,
          started_at: DateTime.t(),
          outputs: %{optional(pid()) => :stdout | :stderr},
          traffic: :counters.counters_ref() | nil,
          input: pid() | nil,
          phase: phase(),
          ready?: boolean(),
          failure: term(),
          ending: nil | :ladder | :kill,
          requested?: boolean(),
          stoppers: [GenServer.from()],
          exited: nil | {:status, 0..255} | {:signal, atom()} | :unknown,
          commands: map(),
          result: nil | {:ok, Leash.Exit.t()} | {:error, term()},
          hunt: {pid(), reference()} | nil,
          gone?: boolean(),
          stuck: nil | {reference(), Escalation.stage()},
          parent: pid() | nil,
          reaper: reference()
        }

  @doc "Of a tree whose shim has just been started."
  @spec new(%{
          run: Run.t(),
          number: pos_integer(),
          client: Client.t() | nil,
          options: map(),
          label: String.t(),
          started: Warden.started()
        }) :: t()
  def new(%{options: options, started: started} = tree) do
    %{
      run: tree.run,
      number: tree.number,
      client: tree.client,
      attachment: options[:attach],
      # Without the environment: it may hold secrets, and nothing asks for it any more.
      options: %{options | env: []},
      label: tree.label,
      # leash, reports and requests; nil once the shim is through with it
      channel: started.channel,
      ends: started.ends,
      warden: started.warden,
      shim_pid: nil,
      # from the warden, or by its number where that was killed meanwhile
      shim_fd: nil,
      os_pid: nil,
      mark: nil,
      started_at: DateTime.utc_now(),
      outputs: %{},
      traffic: Guard.traffic(options[:guard]),
      input: nil,
      phase: :launching,
      ready?: options.ready == nil,
      # why start_link fails, or why this process exits
      failure: nil,
      # how the tree is being ended: nil, :ladder or :kill
      ending: nil,
      requested?: false,
      stoppers: [],
      exited: nil,
      # what became of the ladder's commands, by the index of their steps
      commands: %{},
      result: nil,
      hunt: nil,
      gone?: false,
      # what is to happen when a stage of its end has taken too long
      stuck: nil,
      parent: parent(),
      reaper: Process.monitor(Reaper)
    }
  end

  @doc "The process that called `start_link/1`."
  @spec parent() :: pid() | nil
  def parent do
    # Started by proc_lib, so it is the first ancestor.
    case Process.get(:"$ancestors") do
      [pid | _] when is_pid(pid) -> pid
      [name | _] when is_atom(name) -> Process.whereis(name)
      _none -> nil
    end
  end

  @doc "Changes what everybody can look up of it."
  @spec update_row(t(), keyword()) :: t()
  def update_row(state, changes) do
    Workers.change(state.number, changes)
    state
  end

  @doc "Whether the exit of that process is part of the tree's life."
  @spec own_exit?(t(), pid() | port()) :: boolean()
  def own_exit?(state, pid), do: pid == state.input or is_map_key(state.outputs, pid)

  @doc "Whether it is a tree that outlives this process, and that nobody asked to end."
  @spec lasts?(t()) :: boolean()
  def lasts?(state),
    do: state.options.on_exit == :detach and state.phase == :running and state.ending == nil

  @doc "What `Leash.Worker.info/1` says."
  @spec info(t()) :: map()
  def info(state) do
    info = %{
      run_id: state.run.id,
      worker: state.number,
      group: state.options.group,
      os_pid: state.os_pid,
      shim_pid: state.shim_pid,
      command: state.options.command,
      args: state.options.args,
      state: if(state.phase == :running and state.exited == nil, do: :running, else: :ending),
      started_at: state.started_at,
      mark: with({:error, errno} <- state.mark, do: {:error, Posix.name(errno)}),
      adopted?: false
    }

    Attachment.info(info, state.attachment)
  end
end
