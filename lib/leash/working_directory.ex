defmodule Leash.WorkingDirectory do
  # If a VM's working directory was deleted, the VM can start no program: the fork server enters
  # that directory first, and a request for a shim is refused.
  @moduledoc false

  @message "the VM's working directory was deleted, and no program can be started from there: " <>
             "change to one that exists (File.cd!/1)"

  @doc "Returns the error message."
  @spec message() :: String.t()
  def message, do: @message

  @doc """
  Explains an error of `Port.open/2`.

  If the `:enoent` means the working directory and not the program, the error becomes
  `:no_working_directory`.
  """
  @spec explain(Exception.t()) :: Exception.t()
  def explain(%ErlangError{original: :enoent} = error) do
    if File.cwd() == {:error, :enoent},
      do: %ErlangError{error | original: :no_working_directory},
      else: error
  end

  def explain(error), do: error
end
