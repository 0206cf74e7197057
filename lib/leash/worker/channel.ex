defmodule Leash.Worker.Channel do
  # The channel to a shim: its reports, the requests to it, and the hang-up, which ends the tree
  # (native/PROTOCOL.md, section 10). The shim's pidfd is here, too, because a shim that is
  # stopped or hangs does not read.
  @moduledoc false

  alias Leash.{Cgroup, Native, Registry, Shim, Telemetry}
  alias Leash.Shim.Handle
  alias Leash.Worker.{Launch, Machine}

  @enforce_keys [:fd, :run_id, :number, :warden]
  defstruct [:fd, :run_id, :number, :warden, :shim_pid, :pidfd, :cgroup, :watch]

  @typedoc """
  The state of the channel.

  `fd` is nil after the shim has closed it. `pidfd` is nil until the warden has sent it. `watch`
  is the copy of it that reports the end of the shim. `warden`
  is the warden that started the shim, see `Leash.Warden.word/1`.
  """
  @type t :: %__MODULE__{
          fd: Native.fd() | nil,
          run_id: Leash.RunId.t(),
          number: pos_integer(),
          warden: Native.fd(),
          shim_pid: pos_integer() | nil,
          pidfd: Native.fd() | nil,
          cgroup: Path.t() | nil,
          watch: Native.fd() | nil
        }

  @doc "Returns the channel of a shim that was started, and the events of its first message."
  @spec new(Launch.t()) :: {[Machine.event()], t()}
  def new(%{run: run, started: started} = launched) do
    channel = %__MODULE__{
      fd: started.channel,
      run_id: run.id,
      number: launched.number,
      warden: started.warden,
      cgroup: cgroup(launched.options[:cgroup])
    }

    {channel, events} = take(started.first, channel, [])
    {Enum.reverse(events), channel}
  end

  defp cgroup(path) when is_binary(path), do: path
  defp cgroup(_none), do: nil

  @doc "Returns the events of what the shim has sent. `:hung_up` comes last."
  @spec read(t()) :: {[Machine.event()], t()}
  def read(%{fd: nil} = channel), do: {[], channel}
  def read(channel), do: read(channel, [])

  defp read(channel, events) do
    case Native.channel_read(channel.fd) do
      :again ->
        {Enum.reverse(events), channel}

      ended when ended == :eof or elem(ended, 0) == :error ->
        {Enum.reverse([:hung_up | events]), close(channel)}

      message ->
        {channel, events} = take(message, channel, events)
        read(channel, events)
    end
  end

  defp take({:spawned, frames, pidfd}, channel, events),
    do: take({:ok, frames}, hold(channel, pidfd), events)

  defp take({:ok, frames}, channel, events) do
    for <<size::16, frame::binary-size(size) <- frames>>, reduce: {channel, events} do
      {channel, events} -> frame |> Shim.report() |> noted(channel, events)
    end
  end

  defp noted({:spawned, shim_pid} = report, channel, events),
    do: {%{channel | shim_pid: shim_pid}, [{:report, report} | events]}

  defp noted({:gone, exit} = report, %{cgroup: path} = channel, events) when path != nil,
    do: {channel, [{:report, report}, {:used, used(channel, exit.cause)} | events]}

  defp noted(report, channel, events), do: {channel, [{:report, report} | events]}

  @doc """
  Returns the events of a verdict on what a killed shim left. What the tree used comes first.
  """
  @spec proven(t(), Machine.verdict()) :: [Machine.event()]
  def proven(%{cgroup: path} = channel, :gone) when path != nil,
    do: [{:used, used(channel, :shim_died)}, {:proof, :gone}]

  def proven(_channel, verdict), do: [{:proof, verdict}]

  # What was kept goes on in the group, which its shim removes.
  defp used(%{cgroup: path}, :kept), do: Cgroup.used(path)

  defp used(%{cgroup: path}, _gone) do
    used = Cgroup.used(path)
    :ok = Cgroup.remove(path)
    used
  end

  defp hold(channel, pidfd) do
    :ok = Registry.keep(pidfd)
    Registry.change(channel.number, shim_fd: pidfd)
    %{channel | pidfd: pidfd}
  end

  defp ask(channel, how) do
    # A second request means SIGKILL, and `Leash.stop_all/2` may ask, too.
    _ = how == :ladder and Registry.first_to_tell?(channel.number)
    _ = channel.fd && Native.channel_ask(channel.fd, how)
    # It may be stopped.
    signal(channel, :wake)
  end

  @doc """
  Asks the shim to signal its program, the program's group or the tree.

  The shim is their parent, so no number can belong to another process. `:ok` means that the shim
  has the request. A shim that is stopped is continued.
  """
  @spec signal_tree(t(), 1..64, :leader | :group | :tree) :: {:ok | {:error, term()}, t()}
  def signal_tree(%{fd: nil} = channel, _number, _to), do: {{:error, :noproc}, channel}

  def signal_tree(channel, number, to) do
    sent = Native.channel_signal(channel.fd, number, %{leader: 0, group: 1, tree: 2}[to])
    # The shim has ended, or let go of what it keeps.
    gone? = sent in [{:error, :epipe}, {:error, :closed}, {:error, :econnreset}]
    {if(gone?, do: {:error, :noproc}, else: sent), signal(channel, :wake)}
  end

  defp signal(channel, how) do
    channel = held(channel, how)
    _ = channel.pidfd && Handle.signal(channel.pidfd, how)
    channel
  end

  # The warden was killed before it sent the pidfd. Nothing is lost until the shim hangs.
  defp held(%{pidfd: nil, shim_pid: pid} = channel, :sigkill) when pid != nil do
    case Handle.open(pid, channel.run_id, channel.number) do
      {:ok, pidfd} -> %{channel | pidfd: pidfd}
      {:error, _gone} -> channel
    end
  end

  defp held(channel, _how), do: channel

  @doc "Carries out the actions of the machine that concern the shim or the worker's row alone."
  @spec act(t(), Machine.action()) :: t()
  def act(channel, {:ask, how}), do: ask(channel, how)
  def act(channel, {:signal, how}), do: signal(channel, how)
  def act(channel, :close), do: close(channel)

  def act(channel, {:row, changes}) do
    Registry.change(channel.number, changes)
    channel
  end

  def act(channel, {:telemetry, event}) do
    Telemetry.of_tree(channel.number, event)
    channel
  end

  @doc """
  Sends the caller the message when the shim has ended.

  If the shim has ended already, or its end cannot be seen, the message comes at once.
  """
  @spec await_exit(t(), term()) :: t()
  def await_exit(%{pidfd: pidfd} = channel, message) do
    with true <- pidfd != nil and Native.pidfd_ended?(pidfd) == false,
         {:ok, watch} <- Native.monitor_end(pidfd, message) do
      %{channel | watch: watch}
    else
      _ended_or_unknown ->
        send(self(), message)
        channel
    end
  end

  @doc "Closes what is left of a channel whose process goes on with another one."
  @spec finish(t()) :: :ok
  def finish(channel), do: Native.close(channel.watch)

  @doc "Closes the channel."
  @spec close(t()) :: t()
  def close(channel) do
    :ok = Native.close(channel.fd)
    %{channel | fd: nil}
  end
end
