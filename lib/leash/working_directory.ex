defmodule Leash.WorkingDirectory do
  # A VM whose working directory was deleted can start no program: the fork server
  # enters that directory first, and a request for a shim is refused.
  @moduledoc false

  @message "the VM's working directory was deleted, and no program can be started from there: " <>
             "change to one that exists (File.cd!/1)"

  @doc "What to tell of it."
  @spec message() :: String.t()
  def message, do: @message

  @doc "What `Port.open/2` raised, with `:no_working_directory` for the `:enoent` that says nothing of the program."
  @spec explain(Exception.t()) :: Exception.t()
  def explain(%ErlangError{original: :enoent} = error) do
    if File.cwd() == {:error, :enoent},
      do: %ErlangError{error | original: :no_working_directory},
      else: error
  end

  def explain(error), do: error
end
